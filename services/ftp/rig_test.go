package ftp

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"porthole/internal/leak"
	"porthole/services"
	"porthole/services/servicestest"
)

func TestMain(m *testing.M) { leak.Main(m) }

// hostNet is a services.Net with a loopback address of its own, so that every test
// has a port below its control port which nobody else on the machine uses.
type hostNet struct {
	servicestest.Loopback
	addr netip.Addr

	mu     sync.Mutex
	dialed []uint16 // local ports asked for
	refuse bool     // fixed local ports cannot be had
}

func (n *hostNet) Listen(port uint16) (net.Listener, error) {
	return net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(n.addr, port)))
}

// Dial may take one local port for many peers, as the host's own Dial does.
func (n *hostNet) Dial(ctx context.Context, network string, local uint16, to netip.AddrPort) (net.Conn, error) {
	n.mu.Lock()
	n.dialed = append(n.dialed, local)
	refuse := n.refuse && local != 0
	n.mu.Unlock()
	if refuse {
		return nil, syscall.EADDRINUSE
	}
	d := net.Dialer{
		LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(n.addr, local)),
		Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			_ = c.Control(func(fd uintptr) {
				err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
			})
			return err
		},
	}
	return d.DialContext(ctx, network, to.String())
}

func (n *hostNet) asked() []uint16 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]uint16(nil), n.dialed...)
}

var lastHost atomic.Uint32

// rig is a server on an address of its own.
type rig struct {
	*servicestest.Rig
	t    testing.TB
	net  *hostNet
	addr netip.AddrPort
	log  *servicestest.Log
	to   func(addr string) (net.Conn, error) // the clients' way
}

// start serves with the default configuration, changed by edit, plus the user
// "ann" (password "secret") who may write.
func start(t testing.TB, edit func(*Config)) *rig {
	n := lastHost.Add(1)
	addr := netip.AddrFrom4([4]byte{127, 77, byte(os.Getpid()), byte(n)})
	return startAt(t, addr, 2121, edit)
}

func startAt(t testing.TB, addr netip.Addr, port uint16, edit func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, net: &hostNet{addr: addr}, log: &servicestest.Log{}, to: overTCP}
	ln, err := r.net.Listen(port)
	require.NoError(t, err)
	r.addr = addrPort(ln.Addr())
	r.Rig = servicestest.Start(t, Service, func(env *services.Env) {
		for _, old := range env.TCP {
			old.Close()
		}
		env.TCP = []net.Listener{ln}
		env.Net = r.net
		r.configure(env, edit)
	})
	return r
}

func overTCP(addr string) (net.Conn, error) { return net.Dial("tcp", addr) }

// bubble runs a test about time with a clock of its own and a server in memory: no
// machine is too slow for it.
func bubble(t *testing.T, edit func(*Config), body func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := servicestest.NewMemory()
		r := &rig{t: t, log: &servicestest.Log{}, to: func(addr string) (net.Conn, error) {
			return m.Dial(t.Context(), "tcp", 0, netip.MustParseAddrPort(addr))
		}}
		r.Rig = servicestest.StartOn(t, m, Service, func(env *services.Env) { r.configure(env, edit) })
		r.addr = r.Addr[services.TCP(21)]
		body(t, r)
	})
}

func (r *rig) configure(env *services.Env, edit func(*Config)) {
	env.Log = slog.New(slog.NewTextHandler(r.log, nil))
	cfg := env.Config.(*Config)
	cfg.Users = []User{{Name: "ann", Password: "secret", Write: true}}
	if edit != nil {
		edit(cfg)
	}
	require.NoError(r.t, cfg.Validate())
}

// client is a control connection that sends literal lines.
type client struct {
	t    testing.TB
	to   func(addr string) (net.Conn, error)
	conn net.Conn
	r    *bufio.Reader
}

const patience = servicestest.Patience

func (r *rig) dial() *client {
	r.t.Helper()
	conn, err := r.to(r.addr.String())
	require.NoError(r.t, err)
	r.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return &client{r.t, r.to, conn, bufio.NewReader(conn)}
}

// open dials and reads the greeting; login then logs in.
func (r *rig) open() *client {
	c := r.dial()
	c.want("220")
	return c
}

func (r *rig) login(user, password string) *client {
	r.t.Helper()
	c := r.open()
	c.do("USER "+user, "331")
	c.do("PASS "+password, "230")
	return c
}

func (r *rig) anonymous() *client { return r.login("anonymous", "me@here") }

func (r *rig) writer() *client {
	c := r.login("ann", "secret")
	c.do("TYPE I", "200")
	return c
}

func (c *client) send(lines ...string) {
	c.t.Helper()
	_, err := c.conn.Write([]byte(strings.Join(lines, "\r\n") + "\r\n"))
	require.NoError(c.t, err)
}

// reply reads one reply, of however many lines, without its last line end.
func (c *client) reply() string {
	c.t.Helper()
	var all []string
	for {
		line, err := c.r.ReadString('\n')
		require.NoError(c.t, err, "after %q", all)
		require.True(c.t, strings.HasSuffix(line, "\r\n"), "%q", line)
		line = strings.TrimSuffix(line, "\r\n")
		all = append(all, line)
		if len(line) >= 4 && line[3] == ' ' && line[0] != ' ' && line[:3] == all[0][:3] {
			return strings.Join(all, "\n")
		}
	}
}

// want reads a reply that must begin with prefix.
func (c *client) want(prefix string) string {
	c.t.Helper()
	got := c.reply()
	require.True(c.t, strings.HasPrefix(got, prefix), "got %q, want %q", got, prefix)
	return got
}

func (c *client) do(line, prefix string) string {
	c.t.Helper()
	c.send(line)
	got := c.reply()
	require.True(c.t, strings.HasPrefix(got, prefix), "%s: got %q, want %q", line, got, prefix)
	return got
}

// closed expects the end of the control connection.
func (c *client) closed() {
	c.t.Helper()
	_, err := c.r.ReadByte()
	require.ErrorIs(c.t, err, io.EOF)
}

// passive opens a data connection with EPSV.
func (c *client) passive() net.Conn {
	c.t.Helper()
	conn, err := c.to(c.epsv())
	require.NoError(c.t, err)
	c.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

func (c *client) epsv() string {
	c.t.Helper()
	got := c.do("EPSV", "229 ")
	f := strings.Split(got, "|")
	require.Len(c.t, f, 5)
	host, _, _ := net.SplitHostPort(c.conn.RemoteAddr().String())
	return net.JoinHostPort(host, f[3])
}

// get runs a command that sends data to us, and returns it.
func (c *client) get(line string) string {
	c.t.Helper()
	conn := c.passive()
	c.do(line, "1")
	b, err := io.ReadAll(conn)
	require.NoError(c.t, err)
	c.want("226")
	return string(b)
}

// put runs a command that takes data from us.
func (c *client) put(line, data, want string) {
	c.t.Helper()
	conn := c.passive()
	c.do(line, "1")
	_, _ = io.WriteString(conn, data) // may be cut off, which want tells
	conn.Close()
	c.want(want)
}

// listen waits for the server's active data connections.
func (c *client) listen() (net.Listener, uint16) {
	c.t.Helper()
	host, _, _ := net.SplitHostPort(c.conn.LocalAddr().String())
	ln, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	require.NoError(c.t, err)
	c.t.Cleanup(func() { ln.Close() })
	require.NoError(c.t, ln.(*net.TCPListener).SetDeadline(time.Now().Add(patience)))
	return ln, addrPort(ln.Addr()).Port()
}

func portArg(a netip.AddrPort) string {
	b := a.Addr().As4()
	return fmt.Sprintf("%d,%d,%d,%d,%d,%d", b[0], b[1], b[2], b[3], a.Port()>>8, a.Port()&0xff)
}

func pattern(n int) string {
	b := make([]byte, n)
	_, _ = sample{}.ReadAt(b, 0)
	return string(b)
}

func itoa(n int) string { return strconv.Itoa(n) }
