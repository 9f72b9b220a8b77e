package stack_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole/demux"
	"porthole/internal/leak"
	"porthole/stack"
	"porthole/stack/stacktest"
	"porthole/tun"
)

func TestMain(m *testing.M) { leak.Main(m) }

// patience is for what comes at once unless something is broken.
const patience = time.Minute

// rig is a host stack and a client stack on one pipe.
type rig struct {
	host   *stack.Stack
	table  *demux.Table
	client *stacktest.Client
}

var kinds = map[string]tun.PipeOptions{
	"plain":    {},
	"gso":      {GSO: true},
	"ethernet": {HW: net.HardwareAddr{2, 0, 0, 0, 0, 1}},
}

func newRig(t testing.TB, o tun.PipeOptions) *rig {
	t.Helper()
	p := o
	if o.HW != nil {
		p.HW = net.HardwareAddr{2, 0, 0, 0, 0, 2}
	}
	a, b := tun.Pipe(o, p)
	table := demux.New(demux.Options{})
	host, err := stack.New(stack.Config{Device: a, Table: table, Addrs: []netip.Prefix{stacktest.Host4, stacktest.Host6}})
	require.NoError(t, err)
	stop := run(t, host)
	r := &rig{host, table, stacktest.New(t, b)}
	t.Cleanup(func() {
		stop()
		r.law(t)
	})
	return r
}

// run runs a stack until the function it returns is called.
func run(t testing.TB, s *stack.Stack) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return func() {
		cancel()
		require.NoError(t, <-done)
	}
}

func (r *rig) law(t testing.TB) {
	t.Helper()
	for _, s := range r.table.Ports() {
		require.NoError(t, s.Check())
	}
	require.NoError(t, r.table.Totals().Check())
}

// each runs body over every kind of link and both families.
func each(t *testing.T, body func(t *testing.T, r *rig, host netip.Addr)) {
	for name, o := range kinds {
		for _, addr := range []netip.Addr{stacktest.Host4.Addr(), stacktest.Host6.Addr()} {
			t.Run(name+"/"+addr.String(), func(t *testing.T) { body(t, newRig(t, o), addr) })
		}
	}
}

func ctx(t testing.TB) context.Context {
	c, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return c
}

func TestTCPBothWays(t *testing.T) {
	each(t, func(t *testing.T, r *rig, host netip.Addr) {
		ln, err := r.host.Listen(80, stack.ListenConfig{Owner: "test"})
		require.NoError(t, err)
		defer ln.Close()
		data := bytes.Repeat([]byte("porthole"), 1<<17) // 1 MiB
		served := make(chan error, 1)
		go func() {
			c, err := ln.Accept()
			if err != nil {
				served <- err
				return
			}
			defer c.Close()
			h := sha256.New()
			if _, err := io.CopyN(h, c, int64(len(data))); err != nil {
				served <- err
				return
			}
			_, err = c.Write(data)
			served <- err
		}()
		c, err := r.client.DialTCP(ctx(t), netip.AddrPortFrom(host, 80), stack.DialConfig{Owner: "test"})
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Write(data)
		require.NoError(t, err)
		got, err := io.ReadAll(c)
		require.NoError(t, err)
		require.True(t, bytes.Equal(got, data))
		require.NoError(t, <-served)
	})
}

func TestUDPEchoSizes(t *testing.T) {
	each(t, func(t *testing.T, r *rig, host netip.Addr) {
		pc, err := r.host.ListenPacket(7, stack.PacketConfig{Owner: "test"})
		require.NoError(t, err)
		defer pc.Close()
		go func() {
			b := make([]byte, 65536)
			for {
				n, from, err := pc.ReadFrom(b)
				if err != nil {
					return
				}
				pc.WriteTo(b[:n], from)
			}
		}()
		c, err := r.client.DialUDP(netip.AddrPortFrom(host, 7), stack.DialConfig{Owner: "test"})
		require.NoError(t, err)
		defer c.Close()
		for _, size := range []int{0, 1, 1000, 1452, 1453, 1472, 1473, 3000, 40000, 65000} {
			want := bytes.Repeat([]byte{byte(size), 7, 9}, size/3+1)[:size]
			_, err := c.Write(want)
			require.NoError(t, err)
			c.SetReadDeadline(time.Now().Add(patience))
			b := make([]byte, 65536)
			n, err := c.Read(b)
			require.NoError(t, err, "size %d", size)
			require.True(t, bytes.Equal(want, b[:n]), "size %d: got %d", size, n)
		}
		require.NotZero(t, r.table.Port(demux.UDPPort(7)).Kinds[demux.Reassembled])
	})
}

func TestClosedPorts(t *testing.T) {
	each(t, func(t *testing.T, r *rig, host netip.Addr) {
		_, err := r.client.DialTCP(ctx(t), netip.AddrPortFrom(host, 81), stack.DialConfig{})
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		c, err := r.client.DialUDP(netip.AddrPortFrom(host, 81), stack.DialConfig{})
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Write([]byte("x"))
		require.NoError(t, err)
		c.SetReadDeadline(time.Now().Add(patience))
		_, err = c.Read(make([]byte, 10))
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		syns := r.table.Port(demux.TCPPort(81)).Knocked
		require.Positive(t, syns, "more than one where the answer took a second")
		require.EqualValues(t, 1, r.table.Port(demux.UDPPort(81)).Knocked)
		// The answer is out before its packet's run is counted.
		require.Eventually(t, func() bool { return r.table.Port(demux.LaneClosed).Fates[demux.Closed] == syns+1 },
			patience, time.Millisecond)
	})
}

func TestToItself(t *testing.T) {
	each(t, func(t *testing.T, r *rig, host netip.Addr) {
		ln, err := r.host.Listen(80, stack.ListenConfig{Owner: "test"})
		require.NoError(t, err)
		defer ln.Close()
		go func() {
			if c, err := ln.Accept(); err == nil {
				io.WriteString(c, "hello")
				c.Close()
			}
		}()
		c, err := r.host.DialTCP(ctx(t), netip.AddrPortFrom(host, 80), stack.DialConfig{Owner: "self"})
		require.NoError(t, err)
		b, err := io.ReadAll(c)
		require.NoError(t, err)
		require.Equal(t, "hello", string(b))
		c.Close()
		require.NotZero(t, r.table.Totals().Kinds[demux.SelfTest])
		require.Zero(t, r.table.Totals().Kinds[demux.FromDevice]-r.table.Port(demux.LaneLink).Arrived-r.table.Port(demux.LaneHost).Arrived)
	})
}

func TestErrors(t *testing.T) {
	r := newRig(t, tun.PipeOptions{})
	ln, err := r.host.Listen(80, stack.ListenConfig{Owner: "http"})
	require.NoError(t, err)
	_, err = r.host.Listen(80, stack.ListenConfig{Owner: "other"})
	require.EqualError(t, err, "bind 80/tcp: already in use by http")

	c, err := r.client.DialTCP(ctx(t), netip.AddrPortFrom(stacktest.Host4.Addr(), 80), stack.DialConfig{})
	require.NoError(t, err)
	c.SetReadDeadline(time.Now().Add(-time.Second))
	_, err = c.Read(make([]byte, 1))
	var ne net.Error
	require.True(t, errors.As(err, &ne) && ne.Timeout())
	c.SetReadDeadline(time.Time{})
	read := make(chan error, 1)
	go func() { _, err := c.Read(make([]byte, 1)); read <- err }()
	c.Close()
	require.ErrorIs(t, <-read, net.ErrClosed)
	_, err = c.Write([]byte("x"))
	require.ErrorIs(t, err, net.ErrClosed)

	acc := make(chan error, 1)
	sc, err := ln.Accept()
	require.NoError(t, err)
	go func() { _, err := ln.Accept(); acc <- err }()
	ln.Close()
	require.ErrorIs(t, <-acc, net.ErrClosed)
	sc.Close()
}
