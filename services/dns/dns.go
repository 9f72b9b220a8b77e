// Package dns is the virtual host's authoritative name server (RFC 1034, 1035,
// 2181, 2308, 2782, 3596, 4592, 6672, 6891, 7766, 8482, 8906) over UDP and TCP.
//
// Zones are built once into packed RRsets (zone.go); a query is parsed in place
// (query.go), looked up (lookup.go) and answered by copying those RRsets into one
// reused buffer (message.go). Between the bytes of a query and the bytes of its
// reply nothing waits, locks or allocates: respond is a function of the query, the
// transport and the limits alone, so whoever reads packets may call it inline.
// github.com/miekg/dns reads the master files and packs each record, once, at load.
//
// Against amplification: a UDP reply is never longer than max-udp-size (1232), an
// ANY query over UDP gets one HINFO record (RFC 8482), and nothing is recursed.
// There is no response rate limiting.
//
// Left out: recursion, DNSSEC (records of a signed file are served as plain data,
// the DO bit is copied), TSIG and SIG(0), DNS cookies, NOTIFY and UPDATE (NOTIMP),
// incremental transfer (IXFR is answered with the whole zone), response rate
// limiting, DNS over TLS or HTTPS.
package dns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	mdns "github.com/miekg/dns"

	"porthole/services"
)

// Service answers on 53/udp and 53/tcp.
var Service = services.Service{
	Name:   "dns",
	About:  "authoritative DNS (RFC 1034, 1035, 6891, 7766) for the host's zone and its reverse zones; no recursion, no DNSSEC",
	Ports:  []services.Port{services.UDP(53), services.TCP(53)},
	Config: func() any { return defaultConfig() },
	Serve:  serve,
	Probe:  probe,
}

// refreshEvery is how often the built-in zones are compared with the port table.
const refreshEvery = 2 * time.Second

// server is one running service. zones is replaced as a whole; readers load it
// once per query.
type server struct {
	env   *services.Env
	cfg   *Config
	opts  options
	zones atomic.Pointer[zoneSet]

	// Of the goroutine that builds zones: newServer, then follow.
	files  []*zone
	names  []serviceName
	serial uint32

	dropped atomic.Uint64 // messages that no answer is owed: short, or answers themselves

	connMu sync.Mutex
	conns  map[*conn]struct{} // open TCP connections, at most cfg.TCPConnections
}

func serve(ctx context.Context, env *services.Env) error {
	defer closeAll(env)
	s, err := newServer(env)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	var wg sync.WaitGroup
	errs := make(chan error, len(env.UDP)*udpReaders()+len(env.TCP))
	run := func(what string, f func(context.Context) error) {
		wg.Go(func() {
			if err := f(ctx); err != nil {
				errs <- fmt.Errorf("%s: %w", what, err)
				cancel()
			}
		})
	}
	for _, pc := range env.UDP {
		s.answer(pc)
		for range udpReaders() {
			run("serve udp", func(ctx context.Context) error { return s.serveUDP(ctx, pc) })
		}
	}
	for _, ln := range env.TCP {
		run("serve tcp", func(ctx context.Context) error { return s.serveTCP(ctx, ln) })
	}
	wg.Go(func() { s.follow(ctx) })
	<-ctx.Done()
	closeAll(env)
	s.closeConns()
	wg.Wait()
	select {
	case err = <-errs:
		return err
	default:
		return nil
	}
}

func newServer(env *services.Env) (*server, error) {
	cfg, ok := env.Config.(*Config)
	if !ok {
		return nil, fmt.Errorf("configure dns: got %T", env.Config)
	}
	s := &server{env: env, cfg: cfg, conns: map[*conn]struct{}{}}
	s.opts = newOptions(cfg, env.Host)
	if err := s.load(); err != nil {
		return nil, err
	}
	if err := s.build(uint32(env.Host.Started.Unix()), namesOf(env)); err != nil {
		return nil, err
	}
	for _, z := range s.zones.Load().zones {
		env.Log.Debug("zone", "name", z.name(), "names", len(z.nodes), "serial", z.serial())
	}
	return s, nil
}

// load reads the zones of files, once.
func (s *server) load() error {
	for i, f := range s.cfg.Zones {
		z, err := f.load()
		if err != nil {
			return &services.ConfigError{Key: fmt.Sprintf("zones[%d].file", i), Err: err}
		}
		s.files = append(s.files, z)
	}
	return nil
}

// build puts the zones of files and the built-in ones that no file replaces into service.
func (s *server) build(serial uint32, names []serviceName) error {
	zs := newZoneSet()
	for _, z := range s.files {
		zs.add(z)
	}
	if s.cfg.Builtin {
		zones, err := builtinZones(s.env.Host, names, s.cfg.TTL, serial)
		if err != nil {
			return fmt.Errorf("build zone %s: %w", s.env.Host.Zone, err)
		}
		for _, z := range zones {
			if zs.zones[z.apex] == nil {
				zs.add(z)
			}
		}
	}
	s.names, s.serial = names, serial
	s.zones.Store(zs)
	return nil
}

// follow keeps the built-in zones in step with the port table: ports may be bound
// after this service started, and later. Each change gives a new serial.
func (s *server) follow(ctx context.Context) {
	if !s.cfg.Builtin {
		return
	}
	tick := time.NewTicker(refreshEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.refresh()
		}
	}
}

// refresh builds the zones anew when the port table names other services.
func (s *server) refresh() {
	names := namesOf(s.env)
	if slices.EqualFunc(names, s.names, serviceName.equal) {
		return
	}
	if err := s.build(s.serial+1, names); err != nil {
		s.env.Log.Warn("zones stay as they were", "err", err)
		s.names = names
	}
}

func closeAll(env *services.Env) {
	for _, pc := range env.UDP {
		pc.Close()
	}
	for _, ln := range env.TCP {
		ln.Close()
	}
}

// drop counts a message that is given no answer, and reports whether logDrop has a reader.
func (s *server) drop() bool {
	s.dropped.Add(1)
	return s.env.Log.Enabled(context.Background(), slog.LevelDebug)
}

func (s *server) logDrop(from fmt.Stringer, n int) {
	s.env.Log.Debug("dropped what is no query", "client", from, "bytes", n, "dropped", s.dropped.Load())
}

// contain keeps a fault of ours to the datagram or connection that met it: a panic
// here would end every service of the host. No such fault is known.
func (s *server) contain(p any, what string, client net.Addr) {
	if p != nil {
		s.env.Log.Error("answer failed", "transport", what, "client", client, "panic", p, "stack", string(debug.Stack()))
	}
}

// retry waits a little after the i-th failure in a row of a socket, and reports
// whether to go on: not after the end of ctx, nor once the socket is closed.
func retry(ctx context.Context, err error, i int) bool {
	if ctx.Err() != nil || errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) || i >= 16 {
		return false
	}
	t := time.NewTimer(time.Millisecond << min(i, 8))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// probe asks the service for the SOA of its zone, over the port's own transport.
func probe(ctx context.Context, env *services.Env, port services.Port) error {
	cfg, ok := env.Config.(*Config)
	if !ok {
		return fmt.Errorf("configure dns: got %T", env.Config)
	}
	zone := env.Host.Zone
	if !cfg.Builtin && len(cfg.Zones) > 0 {
		zone = cfg.Zones[0].Name
	}
	c, err := env.Net.Dial(ctx, port.Proto, 0, env.Host.AddrPort(port.Number))
	if err != nil {
		return fmt.Errorf("ask %v: %w", port, err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if end, ok := ctx.Deadline(); ok {
		c.SetDeadline(end)
	}

	q := new(mdns.Msg).SetQuestion(mdns.Fqdn(zone), mdns.TypeSOA)
	reply, err := exchange(c, q, port.Proto == "tcp")
	if err != nil {
		return fmt.Errorf("ask %v: %w", port, err)
	}
	if !cfg.Builtin && len(cfg.Zones) == 0 {
		if reply.Rcode != mdns.RcodeRefused {
			return fmt.Errorf("ask %v: got %s, want REFUSED from a server without zones", port, mdns.RcodeToString[reply.Rcode])
		}
		return nil
	}
	if reply.Rcode != mdns.RcodeSuccess || !reply.Authoritative || len(reply.Answer) != 1 {
		return fmt.Errorf("ask %v: SOA of %s: %s, %d answers", port, zone, mdns.RcodeToString[reply.Rcode], len(reply.Answer))
	}
	soa, ok := reply.Answer[0].(*mdns.SOA)
	if !ok || !strings.EqualFold(soa.Hdr.Name, mdns.Fqdn(zone)) {
		return fmt.Errorf("ask %v: SOA of %s: got %v", port, zone, reply.Answer[0])
	}
	return nil
}

// exchange sends one query on an open connection and reads its reply.
func exchange(c net.Conn, q *mdns.Msg, tcp bool) (*mdns.Msg, error) {
	out, err := q.Pack()
	if err != nil {
		return nil, err
	}
	if tcp {
		out = append([]byte{byte(len(out) >> 8), byte(len(out))}, out...)
	}
	if _, err = c.Write(out); err != nil {
		return nil, err
	}
	buf := make([]byte, 65535)
	n := 0
	if tcp {
		if _, err = io.ReadFull(c, buf[:2]); err != nil {
			return nil, err
		}
		n, err = io.ReadFull(c, buf[:int(buf[0])<<8|int(buf[1])])
	} else {
		n, err = c.Read(buf)
	}
	if err != nil {
		return nil, err
	}
	m := new(mdns.Msg)
	if err = m.Unpack(buf[:n]); err != nil {
		return nil, err
	}
	if m.Id != q.Id || !m.Response {
		return nil, errors.New("the reply is not to the query")
	}
	return m, nil
}
