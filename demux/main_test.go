package demux

import (
	"testing"

	"porthole/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }
