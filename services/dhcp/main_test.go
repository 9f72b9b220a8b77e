package dhcp

import (
	"testing"

	"go.uber.org/goleak"

	"porthole/services/servicestest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = servicestest.Patience
