package porthole

import (
	"time"

	"porthole/demux"
)

// What Settings.Policy may be: what a UDP port's queue loses.
const (
	PolicyTailDrop = "tail-drop" // the newest, when it is full; the default
	PolicyHeadDrop = "head-drop" // the oldest, when it is full
	PolicyCoDel    = "codel"     // who waited too long, while all do (RFC 8289)
)

// Policies lists them.
func Policies() []string {
	var names []string
	for _, d := range demux.Disciplines() {
		names = append(names, d.String())
	}
	return names
}

// policy is the part of complete settings that the queue's owner takes.
func (s *Settings) policy() demux.Policy {
	d, _ := demux.ParseDiscipline(s.Policy)
	p := demux.Policy{Discipline: d}
	if d == demux.CoDel {
		p.Target, p.Interval = time.Duration(*s.CodelTarget), time.Duration(*s.CodelInterval)
	}
	return p
}
