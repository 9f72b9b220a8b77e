package porthole

import (
	"context"
	"errors"
	"slices"
	"strings"

	"porthole/demux"
	"porthole/services"
	"porthole/services/all"
)

// Open runs one more instance of a service on a port of its own, with the
// service's configuration, and returns when it has been probed. It is listed with
// the service's name, and stays until Close or the end of the host: a
// configuration that is reloaded leaves it alone.
func (h *Host) Open(ctx context.Context, p services.Port, name string) error {
	svc, ok := all.Lookup(name)
	if !ok {
		return refuse(NotFound, "open %v: no service %q; there are %s", p, name, strings.Join(all.Names(), ", "))
	}
	if !slices.ContainsFunc(svc.Ports, func(o services.Port) bool { return o.Proto == p.Proto }) {
		return refuse(Invalid, "open %v: %s has no %s port", p, name, p.Proto)
	}
	if p.Number == 0 {
		return refuse(Invalid, "open %v: a port's number is 1 to 65535", p)
	}
	h.control.Lock()
	defer h.control.Unlock()
	if err := h.runs("open", p); err != nil {
		return err
	}
	if err := h.free(p); err != nil {
		return err
	}
	r := h.launch(svc, []services.Port{p}, h.Config().Services[name].Options, true)
	h.probe(ctx, []*running{r})
	if err := r.failure(); err != nil {
		h.end(r)
		kind := Failed
		if be := (*demux.BoundError)(nil); errors.As(err, &be) {
			kind = InUse
		}
		return refuse(kind, "open %v: %w", p, err)
	}
	return nil
}

// free reports who has a port.
func (h *Host) free(p services.Port) error {
	for _, r := range h.services() {
		if r.has(p) && r.failure() != nil {
			continue // it has failed: the port is only listed with it
		}
		if r.has(p) {
			return refuse(InUse, "open %v: already in use by %s", p, r.svc.Name)
		}
	}
	return nil
}

// Close takes a port from the service that listens there. The port is closed at
// once; connections that waited to be accepted get RST, those that the service has
// accepted live on until they end. The service goes on with its other ports; the
// one that has none left ends with its last connection. A port that a service
// opened itself (a passive data port of FTP) is the service's to close.
func (h *Host) Close(p services.Port) error {
	h.control.Lock()
	defer h.control.Unlock()
	if err := h.runs("close", p); err != nil {
		return err
	}
	for _, r := range h.services() {
		if r.has(p) {
			h.takeFrom(r, p)
			h.mu.Lock()
			delete(h.changed, p)
			h.mu.Unlock()
			return nil
		}
	}
	if owner, ok := h.table.Bound(demuxPort(p)); ok && p.Number != 0 {
		if p.Proto == "tcp" && h.stack.PortState(p.Number) != "listening" {
			return refuse(NotFound, "close %v: nobody listens there; it is left to connections until they end", p)
		}
		return refuse(Invalid, "close %v: %s opened it itself, for a conversation; it closes it, too", p, owner)
	}
	return refuse(NotFound, "close %v: nobody has the port; `porthole ports` lists those that are bound", p)
}

func (h *Host) runs(what string, p any) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctx == nil || h.ctx.Err() != nil {
		return refuse(Stopped, "%s %v: the host does not run", what, p)
	}
	return nil
}

// end takes all ports from a service: it ends with its last connection, and at once
// when there is none. One that has failed is no longer listed.
func (h *Host) end(r *running) {
	for _, p := range r.portList() {
		h.takeFrom(r, p)
	}
}

func (h *Host) takeFrom(r *running, p services.Port) {
	r.take(p)
	if r.idle() {
		<-r.done // it was told to end; each bounds its farewell
	}
	select {
	case <-r.done:
		if len(r.portList()) == 0 {
			h.drop(r)
		}
	default:
	}
}

func (h *Host) drop(r *running) {
	h.mu.Lock()
	h.running = slices.DeleteFunc(h.running, func(o *running) bool { return o == r })
	h.mu.Unlock()
}
