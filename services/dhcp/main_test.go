package dhcp

import (
	"testing"

	"porthole/internal/leak"
	"porthole/services/servicestest"
)

func TestMain(m *testing.M) { leak.Main(m) }

const patience = servicestest.Patience
