package porthole

import (
	"errors"
	"fmt"

	"porthole/demux"
	"porthole/services"
	"porthole/stack"
)

// Kind says what was wrong with a request to a running host.
type Kind uint8

// The kinds of an Error.
const (
	Invalid  Kind = iota + 1 // the request itself: a value out of range
	NotFound                 // nobody has the port; there is no such service
	InUse                    // somebody has the port already
	Stopped                  // the host does not run yet, or not any more
	Failed                   // it was tried, and did not work
)

// Error is why a running host did not do what it was asked. Nothing has changed.
type Error struct {
	Kind Kind
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

func refuse(k Kind, format string, args ...any) error {
	return &Error{k, fmt.Errorf(format, args...)}
}

// Set changes a bound port while it runs: what s says, and nothing else. Nothing
// that is queued is thrown away. All of s takes effect, or none of it and the
// error says why. It lasts until Reset, Close, or the end of the host, on top of
// what a configuration says.
func (h *Host) Set(p services.Port, s Settings) error {
	if err := s.Check(p); err != nil {
		return refuse(Invalid, "set %v: %w", p, err)
	}
	h.control.Lock()
	defer h.control.Unlock()
	if err := h.mayHave(p, s); err != nil {
		return err
	}
	h.mu.Lock()
	was, had := h.changed[p]
	h.changed[p] = s.over(was)
	h.mu.Unlock()
	if err := h.apply(p); err != nil {
		h.mu.Lock()
		h.changed[p] = was
		if !had {
			delete(h.changed, p)
		}
		h.mu.Unlock()
		return refuse(Failed, "set %v: %w", p, errors.Join(err, h.apply(p)))
	}
	h.table.Log().Add(demux.Event{Type: demux.SettingsSet, Port: demuxPort(p), Who: s.String()})
	return nil
}

// Reset takes back what Set changed of a port: its configuration counts again.
func (h *Host) Reset(p services.Port) error {
	h.control.Lock()
	defer h.control.Unlock()
	if err := h.mayHave(p, Settings{}); err != nil {
		return err
	}
	h.mu.Lock()
	delete(h.changed, p)
	h.mu.Unlock()
	if err := h.apply(p); err != nil {
		return refuse(Failed, "reset %v: %w", p, err)
	}
	h.table.Log().Add(demux.Event{Type: demux.SettingsSet, Port: demuxPort(p), Who: "reset"})
	return nil
}

// mayHave reports why a port cannot take settings now.
func (h *Host) mayHave(p services.Port, s Settings) error {
	if _, ok := h.table.Bound(demuxPort(p)); !ok {
		return refuse(NotFound, "set %v: nobody has the port; `porthole ports` lists those that are bound", p)
	}
	if _, _, ok := h.stack.Pace(p.Proto == "tcp", p.Number); !ok {
		s.Queue, s.QueueBytes = nil, nil
		if !s.IsZero() {
			return refuse(Invalid, "set %v: nobody listens there, it belongs to connections; only queue and queue-bytes can be set", p)
		}
	}
	return nil
}

// settingsOf is all of a port's settings: the defaults, the configuration over
// them, and over that what Set has changed.
func (h *Host) settingsOf(p services.Port) Settings {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed[p].over(h.cfg.Ports[p].over(defaults(p))).effective()
}

// apply makes a bound port what its settings say. It touches what differs only: a
// delay under way goes on when something else is set.
func (h *Host) apply(p services.Port) error {
	want := h.settingsOf(p)
	line, tcp := demuxPort(p), p.Proto == "tcp"
	is := h.table.Port(line)
	if lim := want.limits(); is.Limits != lim {
		if err := h.table.SetLimits(line, lim); err != nil {
			return err
		}
	}
	if pol := want.policy(); !tcp && is.Policy != pol {
		if err := h.table.SetPolicy(line, pol); err != nil {
			return err
		}
	}
	if err := h.applyRules(p, &want); err != nil {
		return err
	}
	gone := fmt.Errorf("%w meanwhile", demux.ErrReleased)
	delay, hold, ok := h.stack.Pace(tcp, p.Number)
	if !ok {
		return nil // no listener: the queue is all it has
	}
	if d, never := stack.Delay(*want.ServiceDelay), want.Accept == "never"; d != delay || hold != never {
		if !h.stack.SetPace(tcp, p.Number, d, never) {
			return gone
		}
	}
	if !tcp {
		return nil
	}
	if d, ok := h.stack.Door(p.Number); ok && d.DoorConfig != want.door() && !h.stack.SetDoor(p.Number, want.door()) {
		return gone
	}
	if n := int(*want.ReceiveBuffer); h.stack.ReceiveBuffer(p.Number) != n && !h.stack.SetReceiveBuffer(p.Number, n) {
		return gone
	}
	return nil
}

func demuxPort(p services.Port) demux.Port {
	if p.Proto == "tcp" {
		return demux.TCPPort(p.Number)
	}
	return demux.UDPPort(p.Number)
}

// Config is the configuration that the host runs by: as it was started, or last
// reloaded. What Set and Open changed is not in it. It is a value; what its maps
// hold may not be changed.
func (h *Host) Config() Config {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cfg
}
