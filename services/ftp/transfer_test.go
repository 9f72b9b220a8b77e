package ftp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole/services"
	"porthole/services/servicestest"
)

func TestRestBothWays(t *testing.T) {
	r := start(t, nil)
	c := r.writer()
	want := pattern(1 << 20)
	c.do("REST 1000", "350")
	require.Equal(t, want[1000:], c.get("RETR pub/1MiB.bin"))
	require.Equal(t, want, c.get("RETR pub/1MiB.bin"), "REST is good for one transfer")
	c.do(fmt.Sprintf("REST %d", len(want)), "350")
	require.Empty(t, c.get("RETR pub/1MiB.bin"))

	c.put("STOR f", "0123456789", "226")
	c.do("REST 4", "350")
	c.put("STOR f", "abc", "226")
	require.Equal(t, "0123abc", c.get("RETR f"), "what was behind the offset is gone")
	c.do("REST 7", "350")
	c.put("STOR f", "x", "226")
	require.Equal(t, "0123abcx", c.get("RETR f"))
	c.put("APPE f", "yz", "226")
	c.do("REST 2", "350")
	c.put("APPE f", "!", "226")
	require.Equal(t, "0123abcxyz!", c.get("RETR f"))
	c.put("APPE new", "1", "226")
	require.Equal(t, "1", c.get("RETR new"))
	c.put("STOR f", "", "226")
	require.Empty(t, c.get("RETR f"))

	c.put("APPE pub/1KiB.bin", "tail", "226") // a generated file becomes a real one
	require.Equal(t, want[:1024]+"tail", c.get("RETR pub/1KiB.bin"))
}

func TestStou(t *testing.T) {
	r := start(t, nil)
	c := r.writer()
	c.do("CWD incoming", "250")
	conn := c.passive()
	reply := c.do("STOU", "1")
	_, name, found := strings.Cut(reply, "FILE: ")
	require.True(t, found, reply)
	_, _ = io.WriteString(conn, "unique")
	conn.Close()
	c.want("226")
	require.Equal(t, "unique", c.get("RETR "+name))
}

func TestASCII(t *testing.T) {
	r := start(t, nil)
	c := r.writer()
	lines := c.get("RETR pub/text/lines.txt")
	c.do("TYPE A", "200")
	crlf := strings.ReplaceAll(lines, "\n", "\r\n")
	require.Equal(t, crlf, c.get("RETR pub/text/lines.txt"))
	c.do("SIZE pub/text/lines.txt", fmt.Sprintf("213 %d", len(crlf)))
	c.put("STOR t", crlf+"\r", "226")
	c.do("TYPE I", "200")
	require.Equal(t, lines+"\r", c.get("RETR t"))
	all := strings.Repeat("\n", bufferSize)
	c.put("STOR t", all, "226")
	c.do("TYPE A", "200")
	require.Equal(t, strings.Repeat("\r\n", bufferSize), c.get("RETR t"))
}

func TestActive(t *testing.T) {
	r := start(t, nil)
	c := r.writer()
	for i, form := range []string{"PORT", "EPRT"} {
		ln, port := c.listen()
		to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
		if form == "PORT" {
			c.do("PORT "+portArg(to), "200")
		} else {
			c.do(fmt.Sprintf("EPRT |1|%v|%d|", to.Addr(), port), "200")
		}
		c.send("RETR pub/1KiB.bin")
		conn, err := ln.Accept()
		require.NoError(t, err)
		require.Equal(t, r.addr.Port()-1, addrPort(conn.RemoteAddr()).Port())
		c.want("150")
		b, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.Equal(t, pattern(1024), string(b))
		conn.Close()
		c.want("226")
		require.Len(t, r.net.asked(), i+1)
		ln.Close()
	}
	c.do("RETR pub/1KiB.bin", "150") // EPRT stays until another takes its place
	c.want("425")                    // where nobody listens any more
}

func TestActiveFallback(t *testing.T) {
	for name, allowed := range map[string]bool{"off": false, "on": true} {
		t.Run(name, func(t *testing.T) {
			r := start(t, func(c *Config) { c.ActiveFallback = allowed })
			r.net.mu.Lock()
			r.net.refuse = true
			r.net.mu.Unlock()
			c := r.anonymous()
			_, port := c.listen()
			c.do(fmt.Sprintf("EPRT |1|127.0.0.1|%d|", port), "200")
			c.do("LIST", "150")
			if !allowed {
				c.want("425")
				return
			}
			c.want("226")
			require.Equal(t, []uint16{r.addr.Port() - 1, 0}, r.net.asked())
		})
	}
}

func TestIPv6(t *testing.T) {
	probe, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skip(err)
	}
	probe.Close()
	r := startAt(t, netip.MustParseAddr("::1"), 0, nil)
	c := r.anonymous()
	c.do("TYPE I", "200")
	c.do("PASV", "425 ")
	c.do("EPSV 1", "522 Network protocol not supported, use (2)")
	c.do("EPSV 2", "229 ")
	c.do("EPRT |1|127.0.0.1|50000|", "522 Network protocol not supported, use (2)")
	c.do("EPRT |2|::2|50000|", "504 ")
	c.do("PORT 127,0,0,1,200,0", "504 ")
	require.Equal(t, pattern(1024), c.get("RETR pub/1KiB.bin"))
	ln, port := c.listen()
	c.do(fmt.Sprintf("EPRT |2|::1|%d|", port), "200")
	c.send("RETR pub/1KiB.bin")
	conn, err := ln.Accept()
	require.NoError(t, err)
	c.want("150")
	b, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, pattern(1024), string(b))
	conn.Close()
	c.want("226")
}

// stalled starts a RETR whose data nobody reads: more than all buffers hold.
func stalled(c *client) net.Conn {
	c.t.Helper()
	conn := c.passive()
	c.do("RETR big/256MiB.bin", "1")
	return conn
}

func TestDuringTransfer(t *testing.T) {
	r := start(t, nil)
	c := r.anonymous()
	c.do("TYPE I", "200")
	conn := stalled(c)
	c.do("NOOP", "200")
	require.Contains(t, c.do("STAT", "211-"), "RETR /big/256MiB.bin: ")
	c.send("PWD", "NOOP", "QUIT") // wait for the transfer, and keep their order
	n, err := io.Copy(io.Discard, conn)
	require.NoError(t, err)
	require.EqualValues(t, 256<<20, n)
	c.want("226")
	c.want("257")
	c.want("200")
	c.want("221")
	c.closed()
}

func TestAbort(t *testing.T) {
	r := start(t, nil)
	for name, abor := range map[string]string{
		"plain":            "ABOR\r\n",
		"telnet synch":     "\xff\xf4\xff\xf2ABOR\r\n",
		"urgent mark gone": "\xff\xf4\xffABOR\r\n",
		"urgent IAC gone":  "\xf4\xff\xf2ABOR\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := r.anonymous()
			c.do("TYPE I", "200")
			conn := stalled(c)
			_, err := c.conn.Write([]byte(abor))
			require.NoError(t, err)
			c.want("426")
			c.want("226")
			_, err = io.Copy(io.Discard, conn)
			require.Error(t, err, "an aborted file must not look complete")
			require.Equal(t, pattern(1024), c.get("RETR pub/1KiB.bin"), "the session goes on")
			c.do("ABOR", "226")
		})
	}
	t.Run("before the data connection", func(t *testing.T) {
		c := r.anonymous()
		c.epsv()
		c.do("LIST", "150")
		c.do("ABOR", "426")
		c.want("226")
	})
	t.Run("upload", func(t *testing.T) {
		c := r.writer()
		conn := c.passive()
		c.do("STOR part", "1")
		_, _ = io.WriteString(conn, "abc")
		other := r.writer()
		for other.do("SIZE part", "213") != "213 3" { // what arrived is there to see
			c.do("NOOP", "200")
		}
		other.passive()
		other.do("STOR part", "450")
		other.do("ABOR", "226")
		c.do("ABOR", "426")
		c.want("226")
		require.Equal(t, "abc", c.get("RETR part"), "what arrived is kept, to go on from")
	})
	t.Run("pipelined", func(t *testing.T) {
		c := r.anonymous()
		stalled(c)
		lines := make([]string, maxPending-1)
		for i := range lines {
			lines[i] = "PWD"
		}
		c.send(append(lines, "ABOR")...)
		c.want("426")
		c.want("226")
		for range lines {
			c.want("257")
		}
	})
}

func TestTelnetOptions(t *testing.T) {
	r := start(t, nil)
	c := r.open()
	_, err := c.conn.Write([]byte("NO\xff\xfb\x01\xff\xfd\x03\xff\xfc\x05\xff\xfa\x01x\xff\xffy\xff\xf0OP\r\n"))
	require.NoError(t, err)
	b := make([]byte, 6)
	_, err = io.ReadFull(c.r, b)
	require.NoError(t, err)
	require.Equal(t, "\xff\xfe\x01\xff\xfc\x03", string(b), "DONT and WONT")
	c.want("200")
}

func TestForeignDataConnection(t *testing.T) {
	r := start(t, nil)
	c := r.anonymous()
	addr := c.epsv()
	thief, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 77, 0, 9)}}).Dial("tcp", addr)
	require.NoError(t, err)
	defer thief.Close()
	_ = thief.SetDeadline(time.Now().Add(20 * time.Second))
	n, err := thief.Read(make([]byte, 1))
	require.Zero(t, n)
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	conn, err := net.Dial("tcp", addr) // the right one may still come
	require.NoError(t, err)
	c.do("NLST", "1")
	b, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Contains(t, string(b), "README.txt")
	conn.Close()
	c.want("226")
}

func TestPassiveReplaced(t *testing.T) {
	r := start(t, func(c *Config) { c.PassivePorts = PortRange{50000, 50000} })
	c := r.anonymous()
	for range 3 { // one port is enough for as many as one likes
		old := c.passive()
		c.epsv()
		_, err := old.Read(make([]byte, 1))
		require.Error(t, err)
	}
	other := r.anonymous()
	other.do("EPSV", "425 ")
	c.do("ABOR", "226")
	other.do("EPSV", "229 ")
}

func TestDataTimeouts(t *testing.T) {
	r := start(t, func(c *Config) {
		c.DataConnectTimeout = 300 * time.Millisecond
		c.DataIdleTimeout = 300 * time.Millisecond
	})
	c := r.writer()
	c.epsv()
	c.do("LIST", "150")
	c.want("425") // nobody came
	stalled(c)
	c.want("426") // nobody reads
	conn := c.passive()
	c.do("STOR x", "1")
	c.want("426") // nobody writes
	_, err := conn.Read(make([]byte, 1))
	require.Error(t, err)
	c.do("NOOP", "200")
}

// A client that reads slowly, but reads, is not cut off.
func TestSlowReader(t *testing.T) {
	r := start(t, func(c *Config) { c.DataIdleTimeout = 500 * time.Millisecond })
	c := r.anonymous()
	c.do("TYPE I", "200")
	conn := stalled(c)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	buf := make([]byte, 1<<20)
	var n int64
	for i := 0; i < 24; i++ { // more than twice the idle time
		<-tick.C
		k, err := io.ReadFull(conn, buf)
		require.NoError(t, err)
		n += int64(k)
	}
	rest, err := io.Copy(io.Discard, conn)
	require.NoError(t, err)
	require.EqualValues(t, 256<<20, n+rest)
	c.want("226")
}

func TestIdle(t *testing.T) {
	t.Run("control", func(t *testing.T) {
		r := start(t, func(c *Config) { c.IdleTimeout = 200 * time.Millisecond })
		c := r.anonymous()
		c.want("421")
		c.closed()
	})
	t.Run("login", func(t *testing.T) {
		r := start(t, func(c *Config) { c.LoginTimeout = 300 * time.Millisecond })
		c := r.open()
		for { // commands do not prolong it, REIN and USER included
			c.send("REIN", "USER x")
			if got := c.reply(); strings.HasPrefix(got, "421") {
				break
			}
		}
	})
	t.Run("not during a transfer", func(t *testing.T) {
		r := start(t, func(c *Config) { c.IdleTimeout, c.DataIdleTimeout = 100*time.Millisecond, 700*time.Millisecond })
		c := r.anonymous()
		stalled(c)
		c.want("426")
	})
}

func TestLimits(t *testing.T) {
	t.Run("connections", func(t *testing.T) {
		r := start(t, func(c *Config) { c.MaxConnections, c.MaxPerClient = 3, 2 })
		a, b := r.open(), r.open()
		c := r.dial()
		c.want("421 All 2 connections that one client")
		c.closed()
		a.do("QUIT", "221")
		a.closed()
		a.conn.Close()
		require.Eventually(t, func() bool {
			c := r.dial()
			return strings.HasPrefix(c.reply(), "220")
		}, 10*time.Second, 10*time.Millisecond)
		b.do("NOOP", "200")
	})
	t.Run("file size", func(t *testing.T) {
		r := start(t, func(c *Config) { c.MaxFileSize = 10 })
		c := r.writer()
		c.put("STOR ten", "0123456789", "226")
		c.put("STOR eleven", "01234567890", "552")
		c.put("APPE ten", "x", "552")
		require.Equal(t, "0123456789", c.get("RETR ten"))
	})
	t.Run("memory", func(t *testing.T) {
		r := start(t, func(c *Config) { c.Memory = services.MiB })
		c := r.writer()
		c.put("STOR a", pattern(1<<20), "226")
		c.put("STOR b", "x", "452")
		c.do("DELE a", "250")
		c.put("STOR b", "x", "226")
	})
	t.Run("rate", func(t *testing.T) {
		r := start(t, func(c *Config) { c.CommandsPerSecond = 10 })
		c := r.open()
		begin := time.Now()
		for range 15 { // ten are free
			c.do("NOOP", "200")
		}
		require.Greater(t, time.Since(begin), 300*time.Millisecond)
	})
	t.Run("endless line", func(t *testing.T) {
		r := start(t, nil)
		c := r.open()
		_, _ = c.conn.Write(bytes.Repeat([]byte("x"), 2*maxSkip))
		c.want("421")
	})
}

func TestVanish(t *testing.T) {
	r := start(t, nil)
	c := r.anonymous()
	stalled(c)
	c.conn.Close() // ends that session, and the test's end finds no goroutine
	d := r.anonymous()
	data := stalled(d)
	data.Close()
	d.want("426")
	d.do("NOOP", "200")
}

// A half-closed client with QUIT on its way still gets everything it asked for.
func TestHalfClose(t *testing.T) {
	r := start(t, nil)
	c := r.anonymous()
	data := c.passive()
	c.send("RETR pub/1MiB.bin", "QUIT")
	require.NoError(t, c.conn.(*net.TCPConn).CloseWrite())
	b, err := io.ReadAll(data)
	require.NoError(t, err)
	require.Len(t, b, len(strings.ReplaceAll(pattern(1<<20), "\n", "\r\n")))
	c.want("1")
	c.want("226")
	c.want("221")
	c.closed()
}

func TestStop(t *testing.T) {
	r := start(t, nil)
	idle, busy, waiting, mute := r.anonymous(), r.anonymous(), r.anonymous(), r.anonymous()
	stalled(busy)
	waiting.epsv()
	waiting.do("LIST", "150")
	mute.send(strings.Split(strings.Repeat("HELP\n", 500), "\n")...) // and reads nothing
	begin := time.Now()
	require.NoError(t, r.Stop())
	require.Less(t, time.Since(begin), 8*time.Second)
	idle.want("421")
	idle.closed()
	busy.want("421")
	waiting.want("421")
}

func TestProbe(t *testing.T) {
	r := start(t, nil)
	env := *r.Env
	env.Host.Addr4 = netip.PrefixFrom(r.addr.Addr(), 8)
	require.NoError(t, Service.Probe(t.Context(), &env, services.TCP(r.addr.Port())))
	ln, err := net.Listen("tcp", r.addr.Addr().String()+":0")
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		_, _ = io.WriteString(conn, "421 no\r\n")
		conn.Close()
	}()
	require.ErrorContains(t, Service.Probe(t.Context(), &env, services.TCP(addrPort(ln.Addr()).Port())), "421")
	ln.Close()
	<-ended
}

// Nothing leads out of the root.
func TestEscape(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "root")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "in"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(top, "out.txt"), []byte("secret"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "in", "f"), []byte("inside"), 0o644))
	for link, to := range map[string]string{
		"up": "..", "file": "../out.txt", "abs": filepath.Join(top, "out.txt"), "sub": "in", "dangling": "nosuch", "made": "../made.txt",
	} {
		require.NoError(t, os.Symlink(to, filepath.Join(dir, link)))
	}
	r := start(t, func(c *Config) { c.Root = dir })
	c := r.writer()
	require.Equal(t, "inside", c.get("RETR sub/f"), "links inside are followed")
	c.passive()
	for _, name := range []string{"../out.txt", "/../out.txt", "in/../../out.txt", "up/out.txt", "file", "abs", "//..//out.txt", filepath.Join(top, "out.txt")} {
		got := c.do("RETR "+name, "550")
		require.NotContains(t, got, dir)
		c.do("SIZE "+name, "550")
		c.do("MFMT 20200101000000 "+name, "550")
		c.do("RNFR in/f", "350")
		if got := c.do("RNTO up/moved", "55"); strings.Contains(got, dir) {
			t.Fatal(got)
		}
	}
	c.do("CWD up", "550")
	c.do("MKD up/d", "550")
	c.do("STOR made", "553")
	c.do("STOR up/made.txt", "553")
	c.do("ABOR", "226")
	require.True(t, strings.HasPrefix(c.get("LIST up/"), "l"), "the link itself")
	require.NoFileExists(t, filepath.Join(top, "made.txt"))
	facts := c.get("MLSD")
	require.Contains(t, facts, "type=OS.unix=symlink;")
	require.NotContains(t, facts, "out.txt")
	c.do("DELE file", "250") // the link, not what it points at
	require.FileExists(t, filepath.Join(top, "out.txt"))
}

// With a data directory and somebody who may write, uploads outlast the service.
func TestDataDir(t *testing.T) {
	dir := t.TempDir()
	for _, step := range []string{"put", "get"} {
		addr := netip.AddrFrom4([4]byte{127, 78, byte(os.Getpid()), 1})
		r := &rig{t: t, net: &hostNet{addr: addr}, log: &logLines{}}
		r.Rig = servicestest.Start(t, Service, func(env *services.Env) {
			env.DataDir = dir
			env.Config.(*Config).Anonymous = "write"
		})
		r.addr = r.Addr[services.TCP(21)]
		c := r.anonymous()
		c.do("TYPE I", "200")
		if step == "put" {
			c.put("STOR kept", "bytes", "226")
		} else {
			require.Equal(t, "bytes", c.get("RETR kept"))
		}
		require.NoError(t, r.Stop())
	}
}
