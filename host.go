package porthole

import (
	"context"
	"log/slog"
	"time"

	"porthole/services"
	"porthole/tun"
)

// Version is of this module; the CLI and banners show it.
const Version = "0.1.0"

// Host is one virtual host: a device, a port table, a stack and its services.
type Host struct {
	cfg Config
	dev tun.Device
	log *slog.Logger
}

// New makes a host on an open device, which it owns from then on. Nothing is
// bound or read before Run.
func New(cfg Config, dev tun.Device, log *slog.Logger) (*Host, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Host{cfg: cfg, dev: dev, log: log}, nil
}

// Run binds the ports, starts the services, probes each one through the whole
// path, and serves until ctx ends. It returns after everything it started has ended.
func (h *Host) Run(ctx context.Context) error { panic("wiring follows") }

// Ready is closed when every service has been probed (well or badly: see Ports).
func (h *Host) Ready() <-chan struct{} { panic("wiring follows") }

// PortStatus is one bound port: what `porthole ports` shows.
type PortStatus struct {
	Port    services.Port `json:"port"`
	Service string        `json:"service"`
	// State is "answering" after a good probe, "bound" when there is nothing to
	// probe, "failed" after a bad one or when the service ended with an error.
	State string        `json:"state"`
	Error string        `json:"error,omitempty"`
	Took  time.Duration `json:"took_ns,omitempty"` // of the probe

	Arrived      uint64            `json:"arrived"` // packets
	Queued       int               `json:"queued"`  // packets, those a worker holds included
	QueuedBytes  int               `json:"queued_bytes"`
	LimitPackets int               `json:"limit_packets"`
	LimitBytes   int               `json:"limit_bytes"`
	HighWater    int               `json:"high_water"`             // most packets queued at once
	Accept       int               `json:"accept_queue"`           // connections waiting (TCP)
	AcceptLimit  int               `json:"accept_limit,omitempty"` // 0 on UDP
	Fates        map[string]uint64 `json:"fates"`                  // non-zero ones
}

// Ports lists every bound port, TCP first, in order.
func (h *Host) Ports() []PortStatus { panic("wiring follows") }

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
	Arrived  map[string]uint64 `json:"arrived"`   // packets by kind: device, self-test, reassembled
	Fates    map[string]uint64 `json:"fates"`     // packets, whole host
	Queued   int               `json:"queued"`    // packets without a fate yet
	LedgerOK bool              `json:"ledger_ok"` // arrived = fates + queued
}

// Health returns a snapshot.
func (h *Host) Health() Health { panic("wiring follows") }
