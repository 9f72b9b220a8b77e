package stack_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole/demux"
	"porthole/stack"
	"porthole/stack/stacktest"
	"porthole/tun"
)

// TestShutdownInTraffic ends either side in the middle of bulk TCP both ways and a
// UDP flood both ways: everything returns, whoever waits for a full device too.
func TestShutdownInTraffic(t *testing.T) {
	for name, o := range kinds {
		for _, first := range []string{"host", "client"} {
			for _, frames := range []int{0, 4} { // 4: the pipe is full at once
				t.Run(name+"/"+first, func(t *testing.T) {
					o.Frames = frames
					p := o
					if o.HW != nil {
						p.HW = net.HardwareAddr{2, 0, 0, 0, 0, 2}
					}
					a, b := tun.Pipe(o, p)
					table := demux.New(demux.Options{})
					host, err := stack.New(stack.Config{Device: a, Table: table, Addrs: []netip.Prefix{stacktest.Host4, stacktest.Host6}})
					require.NoError(t, err)
					stopHost := run(t, host)
					client, err := stacktest.NewClient(b, stacktest.Peer4, stacktest.Peer6)
					require.NoError(t, err)

					moved := traffic(t, host, client.Stack)
					// In full flow: 2 MiB of TCP and 1,000 datagrams at least.
					require.Eventually(t, func() bool { return moved.tcp.Load() > 2<<20 && moved.udp.Load() > 1000 },
						patience, time.Millisecond)
					ends := []func(){stopHost, func() { require.NoError(t, client.Close()) }}
					if first == "client" {
						ends[0], ends[1] = ends[1], ends[0]
					}
					done := make(chan struct{})
					go func() {
						defer close(done)
						for _, end := range ends {
							end()
						}
						moved.ln.Close() // its owner's to close, as any listener
						moved.wg.Wait()
					}()
					select {
					case <-done:
					case <-time.After(patience):
						panic("the shutdown hangs") // with every goroutine's stack
					}
					require.NoError(t, table.Totals().Check())
				})
			}
		}
	}
}

type movement struct {
	ln       *stack.Listener
	tcp, udp atomic.Int64
	wg       sync.WaitGroup
}

// traffic keeps sending both ways, on both families, until the sockets fail.
func traffic(t *testing.T, host, client *stack.Stack) *movement {
	ln, err := host.Listen(80, stack.ListenConfig{Owner: "test"})
	require.NoError(t, err)
	m := &movement{ln: ln}
	both := func(c net.Conn) {
		m.wg.Go(func() {
			b := make([]byte, 64<<10)
			for {
				if _, err := c.Write(b); err != nil {
					break
				}
			}
			c.Close()
		})
		m.wg.Go(func() {
			b := make([]byte, 64<<10)
			for {
				n, err := c.Read(b)
				if err != nil {
					break
				}
				m.tcp.Add(int64(n))
			}
			c.Close()
		})
	}
	m.wg.Go(func() {
		for range 4 {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			both(c)
		}
	})
	hs, err := host.ListenPacket(53, stack.PacketConfig{Owner: "test"})
	require.NoError(t, err)
	cs, err := client.ListenPacket(53, stack.PacketConfig{Owner: "test"})
	require.NoError(t, err)
	for i := range 4 {
		to := stacktest.Host4.Addr()
		if i%2 == 1 {
			to = stacktest.Host6.Addr()
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		c, err := client.DialTCP(ctx, netip.AddrPortFrom(to, 80), stack.DialConfig{Owner: "test"})
		cancel()
		require.NoError(t, err)
		both(c)
	}
	flood := func(s *stack.PacketConn, to netip.Addr) {
		m.wg.Go(func() {
			for i := 0; ; i++ {
				// Known, closed, and too long for one packet.
				port, size := uint16(53), 100
				switch i % 8 {
				case 0:
					port = 54
				case 1:
					size = 4000
				}
				if _, err := s.WriteToUDPAddrPort(make([]byte, size), netip.AddrPortFrom(to, port)); err != nil {
					s.Close()
					return
				}
			}
		})
		m.wg.Go(func() {
			for {
				if _, _, err := s.ReadFromUDPAddrPort(make([]byte, 5000)); err != nil {
					return
				}
				m.udp.Add(1)
			}
		})
	}
	flood(hs, stacktest.Peer4.Addr())
	flood(cs, stacktest.Host6.Addr())
	return m
}

// TestFullPipe: with room for one frame each way, both sides always have something to
// write, and nobody waits for ever: readers never write.
func TestFullPipe(t *testing.T) {
	for name, o := range kinds {
		t.Run(name, func(t *testing.T) {
			o.Frames = 1
			r := newRig(t, o)
			c, s := pair(t, r, stacktest.Host4.Addr())
			for _, end := range []net.Conn{c, s} {
				require.NoError(t, end.SetDeadline(time.Time{})) // as long as it takes
				go io.CopyN(end, zeros{}, 4<<20)
			}
			for range 2000 { // RSTs, unreachables, echoes of both sides
				for _, x := range []struct {
					s  *stack.Stack
					to netip.Addr
				}{{r.client.Stack, stacktest.Host4.Addr()}, {r.host, stacktest.Peer4.Addr()}} {
					u, err := x.s.DialUDP(netip.AddrPortFrom(x.to, 99), stack.DialConfig{})
					require.NoError(t, err)
					_, err = u.Write([]byte("nobody there"))
					require.NoError(t, err)
					u.Close()
				}
			}
			var wg sync.WaitGroup
			for _, end := range []net.Conn{c, s} {
				wg.Go(func() {
					if _, err := io.CopyN(io.Discard, end, 4<<20); err != nil {
						t.Errorf("read: %v", err)
					}
				})
			}
			wg.Wait()
		})
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }
