// Package catalogue names every experiment of the lab, a line each.
package catalogue

import (
	"porthole/cmd/porthole/internal/lab"
	"porthole/cmd/porthole/internal/lab/model"
	"porthole/cmd/porthole/internal/lab/rig"
)

// All are the experiments, in the order in which `lab list` shows and `lab run all`
// runs them.
func All() []*lab.Experiment {
	return []*lab.Experiment{
		&model.QueueLoss,
		&model.QueuePolicy,
		&model.WhatIf,
		&rig.Handshake,
		&rig.UDPBurst,
		&rig.Closed,
		&rig.SYNFlood,
		&rig.Isolation,
		&rig.Ports,
		&rig.Window,
		&rig.Loss,
		&rig.Bufferbloat,
		&rig.AcceptQueue,
	}
}
