package ftp

import (
	"bytes"
	"errors"
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

func TestForeignDataConnection(t *testing.T) {
	r := start(t, nil)
	c := r.anonymous()
	addr := c.epsv()
	thief, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 77, 0, 9)}}).Dial("tcp", addr)
	require.NoError(t, err)
	defer thief.Close()
	_ = thief.SetDeadline(time.Now().Add(patience))
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
	const timeout = 10 * time.Second
	bubble(t, func(c *Config) { c.DataConnectTimeout, c.DataIdleTimeout = timeout, timeout }, func(t *testing.T, r *rig) {
		c := r.writer()
		began := time.Now()
		after := func(want time.Duration) {
			t.Helper()
			require.InDelta(t, want, time.Since(began), float64(timeout/10)) // commands have a pace
			began = time.Now()
		}
		c.epsv()
		c.do("LIST", "150")
		c.want("425") // nobody came
		after(timeout)
		stalled(c)
		c.want("426") // nobody reads
		after(timeout)
		conn := c.passive()
		c.do("STOR x", "1")
		c.want("426") // nobody writes
		after(timeout)
		_, err := conn.Read(make([]byte, 1))
		require.Error(t, err)
		c.do("NOOP", "200")
	})
}

// A client that reads slowly, but reads, is not cut off.
func TestSlowReader(t *testing.T) {
	const timeout = time.Second
	bubble(t, func(c *Config) { c.DataIdleTimeout = timeout }, func(t *testing.T, r *rig) {
		c := r.anonymous()
		c.do("TYPE I", "200")
		conn := stalled(c)
		tick := time.NewTicker(timeout * 3 / 4)
		defer tick.Stop()
		buf := make([]byte, bufferSize/4) // a write of the server's takes four ticks
		var n int64
		for range 24 {
			<-tick.C
			k, err := io.ReadFull(conn, buf)
			require.NoError(t, err)
			n += int64(k)
		}
		rest, err := io.Copy(io.Discard, conn)
		require.NoError(t, err)
		require.EqualValues(t, 256<<20, n+rest)
		c.want("226")
	})
}

func TestIdle(t *testing.T) {
	const timeout = 10 * time.Second
	t.Run("control", func(t *testing.T) {
		bubble(t, func(c *Config) { c.IdleTimeout = timeout }, func(t *testing.T, r *rig) {
			c := r.anonymous()
			began := time.Now()
			c.want("421")
			require.Equal(t, timeout, time.Since(began))
			c.closed()
		})
	})
	t.Run("login", func(t *testing.T) {
		bubble(t, func(c *Config) { c.LoginTimeout = timeout }, func(t *testing.T, r *rig) {
			began := time.Now()
			c := r.open()
			for _, step := range [][2]string{{"REIN", "220"}, {"USER x", "331"}, {"REIN", "220"}, {"USER y", "331"}} {
				c.do(step[0], step[1]) // which does not prolong it
				<-time.After(timeout / 5)
			}
			c.want("421")
			require.InDelta(t, timeout, time.Since(began), float64(timeout/10)) // commands have a pace
		})
	})
	t.Run("not during a transfer", func(t *testing.T) {
		bubble(t, func(c *Config) { c.IdleTimeout, c.DataIdleTimeout = timeout, 3*timeout }, func(t *testing.T, r *rig) {
			c := r.anonymous()
			stalled(c)
			c.want("426")
		})
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
		}, patience, 10*time.Millisecond)
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
	require.Less(t, time.Since(begin), replyTimeout)
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
	require.Regexp(t, "type=dir;.*perm=[a-z]*d[a-z]*;.* sub\r\n", facts)
	c.do("RMD sub", "250") // as perm says (RFC 3659, 7.5.5)
	require.NoFileExists(t, filepath.Join(dir, "sub"))
	require.FileExists(t, filepath.Join(dir, "in", "f"))
	c.do("RMD dangling", "550")
	c.do("RMD up", "550")
	require.DirExists(t, top)
}

// With a data directory and somebody who may write, uploads outlast the service.
func TestDataDir(t *testing.T) {
	dir := t.TempDir()
	for _, step := range []string{"put", "get"} {
		addr := netip.AddrFrom4([4]byte{127, 78, byte(os.Getpid()), 1})
		r := &rig{t: t, net: &hostNet{addr: addr}, log: &servicestest.Log{}, to: overTCP}
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
