package porthole

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"porthole/demux"
	"porthole/services"
	"porthole/services/all"
)

// Reload makes the host run by another configuration without dropping a connection
// that a service has accepted. It returns what changed, a line each, or an error
// and has changed nothing.
//
// The settings of ports change at once, under what Set has changed. A service that
// is enabled starts; one that is disabled loses its ports, and ends when its last
// connection does. A service whose own section differs is restarted: a new instance
// takes its ports over, the old one lives on for its connections; those that nobody
// has accepted yet get RST. If one of the new instances fails its self-test, all of
// it is taken back. A service that has failed before is started again.
//
// The name, the zone, the data directory and the link belong to what is running:
// another one of these is refused, by name.
func (h *Host) Reload(ctx context.Context, cfg Config) ([]string, error) {
	if err := cfg.Validate(); err != nil {
		return nil, &Error{Invalid, err}
	}
	h.control.Lock()
	defer h.control.Unlock()
	if err := h.runs("reload", h.cfg.Name); err != nil {
		return nil, err
	}
	old := h.Config()
	if errs := fixed("", reflect.ValueOf(old), reflect.ValueOf(cfg)); len(errs) > 0 {
		return nil, &Error{Invalid, errors.Join(errs...)}
	}
	if _, _, err := h.linkOver(cfg.Impair).Rules(); err != nil {
		return nil, refuse(Invalid, "impair: with what was set of the link (`porthole set link`): %w", err)
	}
	plan := h.planReload(old, cfg)
	if err := h.roomFor(plan); err != nil {
		return nil, err
	}
	var changes []string
	for _, c := range plan {
		changes = append(changes, c.svc.Name+": "+c.what)
	}
	changes = append(changes, portChanges(old.Ports, cfg.Ports)...)
	if was, is := old.Impair.String(), cfg.Impair.String(); was != is {
		changes = append(changes, fmt.Sprintf("link: %q, was %q", is, was))
	}
	if failed := failures(h.change(ctx, cfg, plan)); len(failed) > 0 {
		for i := range plan {
			plan[i].to, plan[i].from = plan[i].from, plan[i].to
		}
		h.change(ctx, old, plan)
		return nil, refuse(Failed, "reload: %w; the host is as it was", reasons(failed))
	}
	if len(changes) > 0 {
		h.table.Log().Add(demux.Event{Type: demux.Reloaded, Port: demux.LaneHost, Who: strings.Join(changes, "; ")})
	}
	return changes, nil
}

// fixed lists the keys that differ and cannot change while the host runs. Ports and
// services can.
func fixed(path string, old, new reflect.Value) (errs []error) {
	for i := range old.NumField() {
		key := old.Type().Field(i).Tag.Get("yaml")
		was, want := old.Field(i), new.Field(i)
		switch {
		case key == "ports" || key == "services" || key == "impair":
		case was.Type() == reflect.TypeFor[Link]():
			errs = append(errs, fixed(key+".", was, want)...)
		case was.Interface() != want.Interface():
			errs = append(errs, &services.ConfigError{Key: path + key, Err: fmt.Errorf(
				"cannot change while the host runs (it is %v); stop the host and start it with the new one", was)})
		}
	}
	return errs
}

// serviceChange is what a reload does to one service.
type serviceChange struct {
	svc      services.Service
	from, to *Service // nil: not running
	what     string
}

func (h *Host) planReload(old, cfg Config) []serviceChange {
	var plan []serviceChange
	for _, svc := range all.Services() {
		c := serviceChange{svc: svc, from: enabled(old, svc.Name), to: enabled(cfg, svc.Name)}
		switch {
		case c.from == nil && c.to == nil:
			continue
		case c.from == nil:
			c.what = "started"
		case c.to == nil:
			c.what = "stopped"
		case !reflect.DeepEqual(c.from.Options, c.to.Options) || !slices.Equal(c.from.Ports, c.to.Ports):
			c.what = "restarted with its new configuration"
		case slices.ContainsFunc(h.configured(svc.Name), func(r *running) bool { return r.failure() != nil }):
			c.what = "started again, it had failed"
		default:
			continue
		}
		plan = append(plan, c)
	}
	return plan
}

func enabled(c Config, name string) *Service {
	if s := c.Services[name]; s != nil && s.Enabled {
		return s
	}
	return nil
}

// configured are the instances of a service that Open did not make. Those that have
// no ports any more are none of them.
func (h *Host) configured(name string) []*running {
	return slices.DeleteFunc(h.services(), func(r *running) bool {
		return r.svc.Name != name || r.opened || len(r.portList()) == 0
	})
}

// roomFor reports a port of the new configuration that somebody has who keeps it.
func (h *Host) roomFor(plan []serviceChange) error {
	freed := map[services.Port]bool{}
	for _, c := range plan {
		for _, r := range h.configured(c.svc.Name) {
			for _, p := range r.portList() {
				freed[p] = true
			}
		}
	}
	for _, c := range plan {
		if c.to == nil {
			continue
		}
		for i, p := range c.to.Ports {
			owner, bound := h.table.Bound(demuxPort(p))
			if bound && !freed[p] && !(p.Proto == "tcp" && h.stack.PortState(p.Number) != "listening") {
				return refuse(InUse, "services.%s.ports[%d]: %v is in use by %s", c.svc.Name, i, p, owner)
			}
		}
	}
	return nil
}

// change carries a plan out and returns the instances that it started, probed. The
// settings of ports come first, so that a port is bound with its own.
func (h *Host) change(ctx context.Context, cfg Config, plan []serviceChange) []*running {
	h.mu.Lock()
	h.cfg.Services, h.cfg.Ports, h.cfg.Impair = cfg.Services, cfg.Ports, cfg.Impair
	h.mu.Unlock()
	_ = h.applyLink() // Reload has checked it
	for _, c := range plan {
		for _, r := range h.configured(c.svc.Name) {
			h.end(r)
		}
	}
	var started []*running
	for _, c := range plan {
		if c.to != nil {
			started = append(started, h.launch(c.svc, c.to.Ports, c.to.Options, false))
		}
	}
	for _, s := range h.table.Ports() {
		if s.Owner != "" && !s.Port.IsLane() {
			_ = h.apply(portOf(s.Port)) // a port that was released meanwhile needs none
		}
	}
	h.probe(ctx, started)
	return started
}

// failure is an instance that was just started and does not answer.
type failure struct {
	r        *running
	selfTest error // nil if it ended before it could be asked
}

func failures(rs []*running) (failed []failure) {
	for _, r := range rs {
		var errs []error
		for _, p := range r.portList() {
			if state, message, _ := r.status(p); state == "failed" {
				errs = append(errs, fmt.Errorf("%s: self-test of %v: %s", r.svc.Name, p, message))
			}
		}
		if len(errs) > 0 || r.failure() != nil {
			failed = append(failed, failure{r, errors.Join(errs...)})
		}
	}
	return failed
}

// reasons says why, when the instances have been taken back: an instance that fails
// closes its ports first, so that its self-test may fail before the instance itself
// has said what it lacks. Its own reason is the better one.
func reasons(failed []failure) error {
	var errs []error
	for _, f := range failed {
		if err := f.r.failure(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f.r.svc.Name, err))
		} else {
			errs = append(errs, f.selfTest)
		}
	}
	return errors.Join(errs...)
}

// portChanges lists the ports whose settings a reload changes.
func portChanges(old, cfg map[services.Port]Settings) []string {
	var lines []string
	keys := maps.Clone(old)
	if keys == nil {
		keys = map[services.Port]Settings{}
	}
	maps.Copy(keys, cfg)
	for _, p := range slices.SortedFunc(maps.Keys(keys), comparePorts) {
		switch was, is := old[p].String(), cfg[p].String(); {
		case was == is:
		case is == "":
			lines = append(lines, p.String()+": default settings")
		default:
			lines = append(lines, p.String()+": "+is)
		}
	}
	return lines
}
