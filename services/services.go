// Package services is the contract between the virtual host and what answers on
// its ports: a Service is a name, its ports and a Serve function; an Env is all
// that a service sees of the host. A protocol package imports this package and
// nothing else of ours, so it can be read, tested and embedded by itself.
package services

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// Service is one thing that answers on ports. Each protocol package exports one
// literal; the catalogue (services/all) lists them.
type Service struct {
	// Name is the short lower-case name, IANA's where there is one ("http").
	Name string
	// About is one line: what it is, by which RFCs, and what it leaves out.
	About string
	// Ports are bound by default. The configuration may name others.
	Ports []Port
	// Config returns a pointer to a fresh configuration that holds the defaults,
	// or nil Config when there is nothing to configure. Fields carry `yaml:"key"`
	// and `doc:"comment"` tags; the type may have Validate() error, which returns
	// a *ConfigError to point at a key, and ValidateData(dir string) error, which is
	// told the host's data directory ("" when there is none).
	Config func() any
	// Serve answers on env.TCP and env.UDP until ctx ends, then closes what it
	// opened, waits for its goroutines and returns nil. An error ends this
	// service alone, never the host. It must not return because of one client.
	Serve func(ctx context.Context, env *Env) error
	// Probe asks one of the service's own ports a real question from the host's
	// own address (env.Dial to env.Host.AddrPort) and returns nil when the answer
	// is right. It is run before the port is listed as answering.
	Probe func(ctx context.Context, env *Env, port Port) error
}

// Env is what one service sees of the host. Only the host makes one (and
// servicestest, over loopback).
type Env struct {
	// Host states the facts of the host the service runs on.
	Host Host
	// TCP and UDP are the service's ports, already bound, in the order of its
	// configuration. The service owns and closes them.
	TCP []net.Listener
	UDP []net.PacketConn
	// Config is what Service.Config returned, filled and validated.
	Config any
	// DataDir is a directory of the service's own that lasts, or "" when the host
	// keeps nothing on disk.
	DataDir string
	// Log is the service's own logger, which makes nobody wait: lines go through a
	// bounded queue of the host's. Use Access for the line per request.
	Log *slog.Logger
	// Now is the clock. Services never call time.Now themselves.
	Now func() time.Time
	// Net opens more sockets than TCP and UDP hold.
	Net Net
	// Ports lists the host's bound ports as values, TCP first, in order.
	Ports func() []PortInfo
	// Pages are HTTP handlers that the host hands to the http service, by path
	// prefix ("/porthole/"). Values are http.Handler; typed any so that this
	// package does not pull net/http into every service.
	Pages map[string]any
}

// Net opens sockets of the virtual host. A port of 0 means any free one. Every
// socket a service opens appears in the port table with the service's name.
type Net interface {
	// Listen binds a TCP port on all of the host's addresses, IPv4 and IPv6.
	Listen(port uint16) (net.Listener, error)
	// ListenPacket binds a UDP port likewise. ReadFrom gives *net.UDPAddr with
	// IPv4 addresses unmapped.
	ListenPacket(port uint16) (net.PacketConn, error)
	// Dial connects from the given local port (0: ephemeral; the same local port
	// may serve many peers at once) to a TCP or UDP peer. network is "tcp" or "udp".
	Dial(ctx context.Context, network string, localPort uint16, remote netip.AddrPort) (net.Conn, error)
	// SendLink sends one UDP datagram to a link address without asking ARP or
	// neighbour discovery, as a DHCP server owes a client that has no address
	// yet. errors.ErrUnsupported where the device carries no Ethernet.
	SendLink(hw net.HardwareAddr, from, to netip.AddrPort, payload []byte) error
}

// An Answerer is a socket of Env.UDP whose datagrams can be answered where the host
// reads them, which saves a round trip its wake-ups. A socket of the kernel is none.
type Answerer interface {
	// Answer has f answer datagrams; nil ends that. When it returns, f's predecessor
	// does not run and will not.
	Answer(f AnswerFunc)
}

// AnswerFunc answers one datagram on the goroutine that reads the device, one call at
// a time per socket, while the service waits in ReadFrom and nothing is queued. It
// must not wait, close the socket or keep msg; what it needs is there before the
// datagram comes. reply sends without waiting; it is false, and nothing is
// sent, where one packet does not hold b. False, with nothing sent, leaves the datagram
// to ReadFrom: so does the host with all that comes while the service is busy, held or
// delayed, for a while after f was slow (100 µs or more on average), in fragments, from
// the host itself or through an Ethernet device. A service that offers it reads all the
// same.
type AnswerFunc func(msg []byte, from netip.AddrPort, reply func(b []byte, to netip.AddrPort) (ok bool)) (done bool)

// A Rester is a connection that can wait for its next byte without a goroutine in Read.
// The host's TCP connections are Resters; the kernel's are not.
type Rester interface {
	// WhenReadable has f called, once, when a Read would return at once: there is data,
	// the end, or an error. f must not wait, nor use the connection. It may be called
	// before WhenReadable returns, and never when the connection is closed here before
	// that; a Close at the same moment may still see it called. A second call replaces
	// the first.
	WhenReadable(f func())
}

// A Discarder is a connection that can read without copying. The host's TCP connections
// are Discarders; the kernel's are not.
type Discarder interface {
	// Discard waits as Read does, takes all that has come, and says how many bytes.
	Discard() (int, error)
}

// Host is what every service may know of the host.
type Host struct {
	Name    string       // the host's name, a DNS label
	Zone    string       // the zone it is authoritative for, without final dot ("porthole.test")
	Addr4   netip.Prefix // its IPv4 address and the prefix of its link; invalid when it has none
	Addr6   netip.Prefix // its IPv6 address and prefix; invalid when it has none
	Peer4   netip.Addr   // the machine's side of the link; invalid when left to DHCP
	Peer6   netip.Addr
	MTU     int              // of the link, bytes of IP
	HW      net.HardwareAddr // of the host on an Ethernet (TAP) device, else nil
	Version string           // of porthole, for banners
	Started time.Time
}

// AddrPort is the host's own IPv4 address (IPv6 when it has no IPv4) with port p:
// what a probe dials.
func (h Host) AddrPort(p uint16) netip.AddrPort {
	if h.Addr4.IsValid() {
		return netip.AddrPortFrom(h.Addr4.Addr(), p)
	}
	return netip.AddrPortFrom(h.Addr6.Addr(), p)
}

// Ethernet reports whether the device carries Ethernet frames (TAP).
func (h Host) Ethernet() bool { return len(h.HW) > 0 }

// Access logs the one line that each request of each service gets: which client asked (a
// net.Addr or netip.AddrPort), what, how it ended, in how long. It is at level Info with
// the message "access". It makes a record itself: slog's own functions would box each
// value and walk the stack.
func (e *Env) Access(client fmt.Stringer, request, result string, took time.Duration, attrs ...slog.Attr) {
	if !e.Logged() {
		return
	}
	r := slog.NewRecord(time.Now(), slog.LevelInfo, "access", accessPC)
	r.AddAttrs(
		slog.String("client", client.String()), slog.String("request", request),
		slog.String("result", result), slog.Duration("took", took),
	)
	r.AddAttrs(attrs...)
	_ = e.Log.Handler().Handle(context.Background(), r)
}

// Logged reports whether an access line would be seen, so that none is made in vain.
func (e *Env) Logged() bool { return e.Log.Enabled(context.Background(), slog.LevelInfo) }

// accessPC is the source of all access lines.
var accessPC = func() uintptr {
	var pcs [1]uintptr
	runtime.Callers(1, pcs[:])
	return pcs[0]
}()

// Port is a port number of one transport protocol: 80/tcp. 0 is never bound.
type Port struct {
	Proto  string // "tcp" or "udp"
	Number uint16
}

// TCP and UDP make a Port.
func TCP(n uint16) Port { return Port{"tcp", n} }
func UDP(n uint16) Port { return Port{"udp", n} }

func (p Port) String() string { return strconv.Itoa(int(p.Number)) + "/" + p.Proto }

// MarshalText gives "80/tcp".
func (p Port) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText takes "80/tcp".
func (p *Port) UnmarshalText(b []byte) (err error) {
	*p, err = ParsePort(string(b))
	return err
}

// ParsePort takes "80/tcp" or "53/udp"; numbers are 1 to 65535.
func ParsePort(s string) (Port, error) {
	num, proto, ok := strings.Cut(s, "/")
	if !ok || proto != "tcp" && proto != "udp" {
		return Port{}, fmt.Errorf("port %q: want NUMBER/tcp or NUMBER/udp, such as 80/tcp", s)
	}
	n, err := strconv.ParseUint(num, 10, 16)
	if err != nil || n == 0 {
		return Port{}, fmt.Errorf("port %q: the number must be 1 to 65535", s)
	}
	return Port{proto, uint16(n)}, nil
}

// PortInfo is one bound port as a service may see it.
type PortInfo struct {
	Port    Port
	Service string // who bound it
	About   string // that service's About
}

// ConfigError points at one key of a service's configuration.
type ConfigError struct {
	Key string // "users[0].password", as written in YAML
	Err error
}

func (e *ConfigError) Error() string { return e.Key + ": " + e.Err.Error() }
func (e *ConfigError) Unwrap() error { return e.Err }

// Size is a number of bytes that is written with a unit: 64KiB, 1MiB, 512.
type Size int64

// Units of Size.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
)

func (s Size) String() string {
	for _, u := range []struct {
		n    Size
		name string
	}{{GiB, "GiB"}, {MiB, "MiB"}, {KiB, "KiB"}} {
		if s >= u.n && s%u.n == 0 {
			return strconv.FormatInt(int64(s/u.n), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// MarshalText gives the shortest exact form.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText takes a whole number with an optional unit B, KiB, MiB or GiB.
func (s *Size) UnmarshalText(b []byte) error {
	text := strings.TrimSpace(string(b))
	unit := Size(1)
	for _, u := range []struct {
		name string
		n    Size
	}{{"KiB", KiB}, {"MiB", MiB}, {"GiB", GiB}, {"B", 1}} {
		if rest, ok := strings.CutSuffix(text, u.name); ok {
			text, unit = strings.TrimSpace(rest), u.n
			break
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > int64(1<<62)/int64(unit) {
		return fmt.Errorf("size %q: want a whole number of bytes with an optional unit KiB, MiB or GiB, such as 64KiB", b)
	}
	*s = Size(n) * unit
	return nil
}
