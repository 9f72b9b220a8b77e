package porthole

import (
	"cmp"
	"time"

	"porthole/demux"
	"porthole/demux/flow"
	"porthole/services"
	"porthole/stack"
)

// PortStatus is one bound port: what `porthole ports` shows.
type PortStatus struct {
	Port    services.Port `json:"port"`
	Service string        `json:"service"`
	// State is "answering" after a good probe, "failed" after a bad one or when the
	// service ended with an error, "held" while accept=never keeps the service from
	// its queue, else "listening", "bound" (UDP), "connected" (a TCP port without
	// listener that a connection uses) or "closing".
	State string        `json:"state"`
	Error string        `json:"error,omitempty"`
	Took  time.Duration `json:"took_ns,omitempty"` // of the probe
	// Declared says that the configuration or Open named the port. Others come and
	// go: a service, or a connection, took them.
	Declared bool `json:"declared"`

	Arrived      uint64 `json:"arrived"` // packets
	Knocked      uint64 `json:"knocked"` // packets that came while nobody had the port; they count as closed
	Queued       int    `json:"queued"`  // packets, those a worker holds included
	QueuedBytes  int    `json:"queued_bytes"`
	LimitPackets int    `json:"limit_packets"`
	LimitBytes   int    `json:"limit_bytes"`
	HighWater    int    `json:"high_water"`   // most packets queued at once
	Accept       int    `json:"accept_queue"` // connections waiting (TCP)
	AcceptLimit  int    `json:"accept_limit"` // the backlog: one more may wait; 0 on UDP
	AcceptHigh   int    `json:"accept_high"`  // most that waited at once
	Syn          int    `json:"syn_queue"`    // half-open connections (TCP)
	SynLimit     int    `json:"syn_limit"`    // one more may be half open
	SynHigh      int    `json:"syn_high"`     // most at once

	// Of the port's open connections (TCP): bytes that have come and the service has
	// not read, of all and of the fullest; what that one's receive buffer holds; the
	// smallest window that any was offered last.
	Connections    int `json:"connections"`
	ReceiveQueue   int `json:"receive_queue"`
	ReceiveFullest int `json:"receive_fullest"`
	ReceiveBuffer  int `json:"receive_buffer"`
	Window         int `json:"window"`
	// Times that the host closed its window to a client of the port, connections where
	// it is closed now, and for how long in all.
	ZeroWindows    uint64        `json:"zero_windows"`
	ZeroWindowsNow int           `json:"zero_windows_now"`
	ZeroWindowFor  time.Duration `json:"zero_window_ns"`

	Fates map[string]uint64 `json:"fates"` // non-zero ones

	ImpairIn  *Impairment `json:"impair_in,omitempty"`  // what rules did to packets that arrived
	ImpairOut *Impairment `json:"impair_out,omitempty"` // and to those that left

	// WaitCounts are how many datagrams waited in the port's queue, or connections in
	// its accept queue, for how long until the service took them: WaitBounds are the
	// bounds, the last count has none. WaitSum is all of it.
	WaitCounts [demux.WaitBuckets]uint64 `json:"wait_counts"`
	WaitSum    time.Duration             `json:"wait_sum_ns"`

	Settings Settings `json:"settings"`          // all of them, as they are
	Changed  string   `json:"changed,omitempty"` // what Set has changed, as text
}

// WaitBounds are what PortStatus.WaitCounts are below: 8 us, four times as much, and so
// on up to 34 s.
func WaitBounds() []time.Duration {
	bounds := make([]time.Duration, demux.WaitBuckets-1)
	for i := range bounds {
		bounds[i] = demux.WaitBound(i)
	}
	return bounds
}

// Ports lists every bound port, TCP first, in order.
func (h *Host) Ports() []PortStatus {
	declared := map[services.Port]*running{}
	for _, r := range h.services() {
		for _, p := range r.portList() {
			declared[p] = r
		}
	}
	var ps []PortStatus
	receiving, zeros := h.stack.Receiving(0), h.flows.ZeroWindows(h.now())
	for _, s := range h.table.Ports() {
		r := declared[portOf(s.Port)]
		if !s.Port.IsLane() && (s.Owner != "" || r != nil) {
			ps = append(ps, h.status(s, r))
			ps[len(ps)-1].receive(receiving, zeros)
		}
	}
	return ps
}

// Port names one port of a host: host.Port("80/tcp").Stats().
type Port struct {
	h    *Host
	name string
}

// Port names one port, as "80/tcp". A wrong name is told by what is asked of it.
func (h *Host) Port(name string) Port { return Port{h, name} }

// Stats is the port as Ports lists it, now. The error is an *Error: the name is none, or
// nobody has the port.
func (p Port) Stats() (PortStatus, error) {
	port, err := services.ParsePort(p.name)
	if err != nil {
		return PortStatus{}, refuse(Invalid, "%w", err)
	}
	s, ok := p.h.PortStatus(port)
	if !ok {
		return s, refuse(NotFound, "%v: nobody has the port; `porthole ports` lists those that are bound", port)
	}
	return s, nil
}

// Set is Host.Set for the port.
func (p Port) Set(s Settings) error {
	port, err := services.ParsePort(p.name)
	if err != nil {
		return refuse(Invalid, "%w", err)
	}
	return p.h.Set(port, s)
}

// PortStatus is one port as Ports lists it; ok is false when nobody has it.
func (h *Host) PortStatus(p services.Port) (s PortStatus, ok bool) {
	if p.Number == 0 || p.Proto != "tcp" && p.Proto != "udp" {
		return s, false
	}
	var owner *running
	for _, r := range h.services() {
		if r.has(p) {
			owner = r
		}
	}
	st := h.table.Port(demuxPort(p))
	if st.Owner == "" && owner == nil {
		return s, false
	}
	s = h.status(st, owner)
	if p.Proto == "tcp" {
		s.receive(h.stack.Receiving(p.Number), h.flows.ZeroWindows(h.now()))
	}
	return s, true
}

// receive adds how a TCP port's connections receive.
func (s *PortStatus) receive(by map[uint16]stack.Receiving, zeros map[uint16]flow.ZeroWindows) {
	if s.Port.Proto != "tcp" {
		return
	}
	r, z := by[s.Port.Number], zeros[s.Port.Number]
	s.Connections, s.ReceiveQueue, s.ReceiveFullest = r.Connections, r.Queued, r.Fullest
	s.ReceiveBuffer, s.Window = r.Buffer, r.Window
	s.ZeroWindows, s.ZeroWindowsNow, s.ZeroWindowFor = z.Count, z.Now, z.For
}

func (h *Host) status(s demux.PortStats, r *running) PortStatus {
	port := portOf(s.Port)
	p := PortStatus{
		Port: port, Service: s.Owner, State: "bound", Declared: r != nil,
		Arrived: s.Arrived, Knocked: s.Knocked, Queued: s.Queued, QueuedBytes: s.Bytes,
		LimitPackets: s.Limits.Packets, LimitBytes: s.Limits.Bytes, HighWater: s.High,
		Fates: fateMap(s.Fates), WaitCounts: s.Waits.Counts, WaitSum: s.Waits.Sum, Settings: h.settingsOf(port),
	}
	p.ImpairIn = impairment(s.Rules, s.Impaired, 0)
	rules, out := h.stack.OutRules(s.Port)
	p.ImpairOut = impairment(rules, out.Stats, out.Refused)
	h.mu.Lock()
	p.Changed = h.changed[port].String()
	h.mu.Unlock()
	if s.Port.IsTCP() {
		p.State = cmp.Or(h.stack.PortState(port.Number), "closing") // its last connection ended since
		if d, ok := h.stack.Door(port.Number); ok {
			p.Accept, p.AcceptLimit, p.AcceptHigh = d.Waiting, d.Backlog, d.HighWaiting
			p.Syn, p.SynLimit, p.SynHigh = d.HalfOpen, d.SynQueue, d.HighHalfOpen
		}
	}
	if r != nil {
		p.Service = r.svc.Name
		if state, message, took := r.status(port); state != "" {
			p.State, p.Error, p.Took = state, message, took
		}
	}
	if p.Settings.Accept == "never" && p.State != "failed" && p.State != "connected" && p.State != "closing" {
		p.State = "held"
	}
	return p
}

func fateMap(fates [demux.NumFates]uint64) map[string]uint64 {
	m := map[string]uint64{}
	for f, n := range fates {
		if n != 0 {
			m[demux.Fate(f).String()] = n
		}
	}
	return m
}

// Health is the state of the host as a whole: what GET /v1/health answers.
type Health struct {
	Name     string            `json:"name"`
	Version  string            `json:"version"`
	Started  time.Time         `json:"started"`
	Ready    bool              `json:"ready"`
	Device   string            `json:"device"`    // interface name
	Kind     string            `json:"kind"`      // of the device
	Address  string            `json:"address"`   // prefix, or ""
	Address6 string            `json:"address6"`  // prefix, or ""
	Arrived  map[string]uint64 `json:"arrived"`   // packets by kind: device, reassembled, self-test, duplicated, segmented
	Fates    map[string]uint64 `json:"fates"`     // packets, whole host
	Queued   int               `json:"queued"`    // packets without a fate yet
	LedgerOK bool              `json:"ledger_ok"` // arrived = fates + queued
	LogLines uint64            `json:"log_lines"` // written
	LogLost  uint64            `json:"log_lost"`  // lines that found no room in the log's queue, or were not taken
}

// Health returns a snapshot.
func (h *Host) Health() Health {
	t := h.table.Totals()
	s := Health{
		Name: h.cfg.Name, Version: Version, Started: h.started,
		Device: h.facts.Name, Kind: h.facts.Kind,
		Arrived: map[string]uint64{}, Fates: fateMap(t.Fates), Queued: t.Queued,
		LedgerOK: t.Check() == nil,
	}
	log := h.lines.Stats()
	s.LogLines, s.LogLost = log.Written, log.Lost
	if a := h.cfg.Link.Address; a.IsValid() {
		s.Address = a.String()
	}
	if a := h.cfg.Link.Address6; a.IsValid() {
		s.Address6 = a.String()
	}
	for k, n := range t.Kinds {
		s.Arrived[demux.Kind(k).String()] = n
	}
	select {
	case <-h.ready:
		s.Ready = true
	default:
	}
	return s
}
