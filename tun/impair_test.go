package tun

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"porthole/demux/packet"
	"porthole/impair"
)

func ruled(t testing.TB, s string) impair.Rules {
	t.Helper()
	r, err := impair.Parse(s)
	require.NoError(t, err)
	return r
}

var (
	client = netip.MustParseAddrPort("10.77.0.2:40000")
	server = netip.MustParseAddrPort("10.77.0.1:80")
	v6     = netip.MustParseAddrPort("[fd77::2]:40000")
)

// datagram is a UDP packet whose payload begins with id.
func datagram(id uint32, size int) []byte {
	b := binary.BigEndian.AppendUint32(nil, id)
	b = append(b, make([]byte, size-len(b))...)
	var hdr [48]byte
	n := packet.PutUDP(hdr[:], client, server, 64, 1, b)
	return append(hdr[:n:n], b...)
}

// super is a TCP super-packet of size bytes of data with a partial checksum.
func super(t testing.TB, size int, to netip.AddrPort, hw bool) Out {
	t.Helper()
	from := client
	if to.Addr().Is6() {
		from = v6
	}
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i * 7)
	}
	var hdr [80]byte
	n := packet.PutTCP(hdr[:], from, to, 64, 0, packet.TCPHeader{Seq: 1000, Ack: 1, Flags: packet.ACK | packet.PSH, Window: 1000}, data)
	o := Offload{Flags: NeedsCsum, GSO: GSOTCP4, SegSize: 1460, HdrLen: uint16(n), CsumStart: 20, CsumOffset: 16}
	if to.Addr().Is6() {
		o.GSO, o.SegSize, o.CsumStart = GSOTCP6, 1440, 40
	}
	binary.BigEndian.PutUint16(hdr[n-4:], 0xbeef) // partial: to be computed by whoever cuts
	link := []byte{}
	if hw {
		link = binary.BigEndian.AppendUint16(append(link, 2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1), 0x800)
		o.CsumStart += 14
		o.HdrLen += 14
	}
	return Out{Pieces: [][]byte{link, hdr[:n], data}, Offload: o}
}

// frame is one frame as an impaired device gave it.
type frame struct {
	b []byte
	Offload
	fault impair.Fault
}

// readFaults takes one batch.
func readFaults(t testing.TB, d Device, queue int) (fs []frame) {
	frames, tail := batch(64)
	n, err := d.Read(queue, frames, tail)
	require.NoError(t, err)
	for _, f := range frames[:n] {
		fs = append(fs, frame{append(bytes.Clone(f.Head), f.Tail...), f.Offload, f.Fault})
	}
	return fs
}

// verify requires a whole packet of at most the MTU with right checksums.
func verify(t testing.TB, b []byte) packet.Info {
	t.Helper()
	i, p := packet.Parse(b, len(b))
	require.Equal(t, packet.None, p)
	require.LessOrEqual(t, len(b), 1500)
	require.True(t, packet.VerifyHeader(&i, b))
	require.True(t, packet.VerifyTransport(&i, b, nil))
	return i
}

// TestImpairNothing: without rules a device is itself, super-packets included.
func TestImpairNothing(t *testing.T) {
	a, b := Pipe(PipeOptions{GSO: true}, PipeOptions{GSO: true})
	d := Impair(a, ImpairOptions{})
	defer b.Close()
	defer d.Close()
	require.Equal(t, a.Facts(), d.Facts())
	f := super(t, 9000, server, false)
	for _, way := range [][2]Device{{d, b}, {b, d}} {
		n, err := way[0].Write(0, []Out{f}, true)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		got := readFaults(t, way[1], 0)
		require.Len(t, got, 1)
		require.Equal(t, f.Offload, got[0].Offload)
		require.Len(t, got[0].b, f.length())
	}
	_, err := d.Read(1, nil, nil)
	require.ErrorContains(t, err, "queue 1 of pipe: it has 1")
}

// TestImpairCuts: with any rule, both directions carry packets of the MTU with complete
// checksums, over both families and Ethernet.
func TestImpairCuts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ether := net.HardwareAddr{2, 0, 0, 0, 0, 1}
		for _, c := range []struct {
			to netip.AddrPort
			hw net.HardwareAddr
		}{{server, nil}, {netip.MustParseAddrPort("[fd77::1]:80"), nil}, {server, ether}} {
			a, b := Pipe(PipeOptions{GSO: true, HW: c.hw}, PipeOptions{GSO: true, HW: c.hw})
			r := ruled(t, "delay:1ms")
			d := Impair(a, ImpairOptions{In: r, Out: r})
			f := super(t, 10_000, c.to, c.hw != nil)
			whole := make([]byte, f.length())
			f.gather(whole)
			l2 := 0
			if c.hw != nil {
				l2 = 14
			}
			for _, way := range [][2]Device{{d, b}, {b, d}} {
				_, err := way[0].Write(0, []Out{f}, true)
				require.NoError(t, err)
				var got []frame
				for len(got) < 7 {
					got = append(got, readFaults(t, way[1], 0)...)
				}
				var data []byte
				for k, g := range got {
					i := verify(t, g.b[l2:])
					require.Equal(t, whole[:l2], g.b[:l2])
					data = append(data, g.b[l2+int(i.Payload):]...)
					require.Zero(t, g.GSO)
					if way[1] == Device(d) {
						require.Equal(t, k > 0, g.fault&impair.Segmented != 0)
						require.NotZero(t, g.fault&impair.Delayed)
					}
				}
				require.Equal(t, f.Pieces[2], data)
			}
			require.NoError(t, d.Close())
			require.NoError(t, b.Close())
		}
	})
}

// TestImpairDelays: in virtual time, a packet comes exactly when its delay has passed,
// both ways, also when the rules came while the reader was waiting.
func TestImpairDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe(PipeOptions{}, PipeOptions{})
		d := Impair(a, ImpairOptions{})
		defer b.Close()
		defer d.Close()
		start := time.Now()
		cross := func(from, to Device, want time.Duration) {
			t.Helper()
			var took time.Duration
			var wg sync.WaitGroup
			wg.Go(func() {
				readFaults(t, to, 0)
				took = time.Since(start)
			})
			synctest.Wait()
			start = time.Now()
			_, err := from.Write(0, out(datagram(1, 100)), true)
			require.NoError(t, err)
			wg.Wait()
			require.Equal(t, want, took)
		}
		cross(b, d, 0)
		var wg sync.WaitGroup
		wg.Go(func() { // who waits in the device itself gets the rules, too
			got := readFaults(t, d, 0)
			require.Equal(t, impair.Delayed, got[0].fault)
			require.Equal(t, 50*time.Millisecond, time.Since(start))
		})
		synctest.Wait()
		d.SetRules(ImpairOptions{In: ruled(t, "delay:50ms"), Out: ruled(t, "delay:20ms")})
		start = time.Now()
		_, err := b.Write(0, out(datagram(1, 100)), true)
		require.NoError(t, err)
		wg.Wait()
		cross(b, d, 50*time.Millisecond)
		cross(d, b, 20*time.Millisecond)
		// Rules that go let out at once what waits, and the reader is back at the device.
		_, err = b.Write(0, out(datagram(2, 100)), true)
		require.NoError(t, err)
		synctest.Wait()
		held, _ := d.Held()
		require.Equal(t, Held{Frames: 1}, held)
		start = time.Now()
		d.SetRules(ImpairOptions{})
		require.Len(t, readFaults(t, d, 0), 1)
		require.Zero(t, time.Since(start))
		cross(b, d, 0)
		cross(d, b, 0)
		cross(b, d, 0)
		require.True(t, d.ends[0].direct.Load())
	})
}

// TestImpairRate: a bulk of packets leaves at the rate, whatever clock wakes us when.
func TestImpairRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe(PipeOptions{}, PipeOptions{})
		r := ruled(t, "rate:10mbit,limit:300")
		d := Impair(a, ImpairOptions{In: r, Out: r})
		defer b.Close()
		defer d.Close()
		for _, way := range [][2]Device{{d, b}, {b, d}} {
			start := time.Now()
			var wg sync.WaitGroup
			wg.Go(func() {
				for n := 0; n < 200; {
					n += len(readFaults(t, way[1], 0))
				}
			})
			for i := range 200 {
				_, err := way[0].Write(0, out(datagram(uint32(i), 1222)), true) // 1250 bytes: 1 ms
				require.NoError(t, err)
			}
			wg.Wait()
			require.Equal(t, 200*time.Millisecond, time.Since(start))
		}
		require.Equal(t, 199, d.OutStats().High)
	})
}

// TestImpairFaults: what each rule does is told, counted, and nothing else happens.
func TestImpairFaults(t *testing.T) {
	for _, c := range []struct {
		rules string
		want  map[impair.Fault]int // of 10 datagrams
		show  bool
	}{
		{"loss:100%", map[impair.Fault]int{impair.Lost: 10}, true},
		{"duplicate:100%", map[impair.Fault]int{0: 10, impair.Duplicated: 10}, false},
		{"corrupt:100%", map[impair.Fault]int{impair.Corrupted: 10}, false},
		{"drop-syn:5", map[impair.Fault]int{0: 10}, false}, // there is none among them
		{"delay:1ms,limit:3", map[impair.Fault]int{impair.Delayed: 3, impair.OverLimit: 7}, true},
		{"delay:1ms,limit:3", map[impair.Fault]int{impair.Delayed: 3}, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			a, b := Pipe(PipeOptions{}, PipeOptions{})
			d := Impair(a, ImpairOptions{In: ruled(t, c.rules), ShowDropped: c.show})
			for i := range 10 {
				_, err := b.Write(0, out(datagram(uint32(i), 100)), true)
				require.NoError(t, err)
			}
			b.Close()
			got := map[impair.Fault]int{}
			for {
				frames, tail := batch(64)
				n, err := d.Read(0, frames, tail)
				if err != nil {
					require.ErrorIs(t, err, os.ErrClosed, "the other end closed, after all that it had written")
					break
				}
				for _, f := range frames[:n] {
					got[f.Fault]++
					if f.Fault&impair.Corrupted != 0 {
						i, p := packet.Parse(f.Head, len(f.Head))
						require.False(t, p == packet.None && packet.VerifyHeader(&i, f.Head) && packet.VerifyTransport(&i, f.Head, nil))
					}
				}
			}
			require.Equal(t, c.want, got, c.rules)
			held, stopped := d.Held()
			require.Zero(t, held)
			require.Zero(t, stopped)
			s := d.InStats()
			require.Equal(t, s.Arrived+s.Duplicated, s.Passed+s.Dropped())
			require.NoError(t, d.Close())
		})
	}
}

// TestImpairDropsSYNs of TCP alone, and says which.
func TestImpairDropsSYNs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe(PipeOptions{}, PipeOptions{})
		d := Impair(a, ImpairOptions{In: ruled(t, "drop-syn:2"), ShowDropped: true})
		defer b.Close()
		defer d.Close()
		var want []impair.Fault
		for i, flags := range []uint8{packet.SYN, packet.ACK, packet.SYN, packet.SYN} {
			var hdr [80]byte
			n := packet.PutTCP(hdr[:], client, server, 64, 0, packet.TCPHeader{Seq: uint32(i), Flags: flags})
			_, err := b.Write(0, out(hdr[:n]), true)
			require.NoError(t, err)
			if flags == packet.SYN && i < 3 {
				want = append(want, impair.SYNDropped)
			} else {
				want = append(want, 0)
			}
		}
		var got []impair.Fault
		for len(got) < 4 {
			for _, f := range readFaults(t, d, 0) {
				got = append(got, f.fault)
			}
		}
		require.Equal(t, want, got)
	})
}

// TestImpairClose frees readers, writers and what waits; nothing is left behind, and
// nothing was lost uncounted.
func TestImpairClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe(PipeOptions{Queues: 2}, PipeOptions{Queues: 2, Frames: 4})
		r := ruled(t, "delay:10s,duplicate:100%")
		d := Impair(a, ImpairOptions{In: r, Out: r})
		var wg sync.WaitGroup
		for q := range 2 {
			wg.Go(func() {
				for {
					frames, tail := batch(8)
					if _, err := d.Read(q, frames, tail); err != nil {
						require.ErrorIs(t, err, os.ErrClosed)
						return
					}
				}
			})
		}
		for i := range 20 {
			for _, dev := range []Device{b, d} {
				n, err := dev.Write(i%2, out(datagram(uint32(i), 1400)), true)
				require.NoError(t, err)
				require.Equal(t, 1, n)
			}
			synctest.Wait()
		}
		time.Sleep(10 * time.Second) // the goroutine that sends waits in the full pipe now
		synctest.Wait()
		d.SetRules(ImpairOptions{In: ruled(t, "delay:20s"), Out: r})
		held, _ := d.Held()
		require.Zero(t, held)
		_, err := b.Write(0, out(datagram(9, 100)), true)
		require.NoError(t, err)
		synctest.Wait()
		require.NoError(t, d.Close())
		require.NoError(t, d.Close())
		wg.Wait()
		_, stopped := d.Held()
		s := d.InStats()
		require.Equal(t, s.Arrived+s.Duplicated, s.Passed+s.Dropped())
		require.Equal(t, Held{Frames: 1}, stopped)
		o := d.OutStats()
		require.Equal(t, uint64(20), o.Arrived)
		require.Equal(t, uint64(20), o.Duplicated)
		_, err = d.Write(0, out(datagram(1, 100)), true)
		require.ErrorIs(t, err, os.ErrClosed)
		require.NoError(t, b.Close())
	})
}

// TestImpairLaw sends datagrams through any rules, changed at any time: what the reader
// saw is what was sent, copied and not yet through.
func TestImpairLaw(t *testing.T) {
	texts := []string{"none", "loss:30%", "duplicate:50%,corrupt:20%", "delay:5ms±5ms,limit:5", "rate:1mbit,limit:4,policy:codel", "delay:3ms,reorder:50%,drop-syn:1", "gemodel:10%/20%,delay:1ms"}
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		steps := rapid.SliceOfN(rapid.IntRange(0, len(texts)+20), 1, 60).Draw(rt, "steps")
		synctest.Test(t, func(t *testing.T) {
			a, b := Pipe(PipeOptions{}, PipeOptions{})
			d := Impair(a, ImpairOptions{ShowDropped: true})
			var mu sync.Mutex
			seen, copies, dropped := 0, 0, 0
			var wg sync.WaitGroup
			wg.Go(func() {
				for {
					frames, tail := batch(3)
					n, err := d.Read(0, frames, tail)
					if err != nil {
						return
					}
					mu.Lock()
					for _, f := range frames[:n] {
						seen++
						if f.Fault&impair.Duplicated != 0 {
							copies++
						}
						if f.Fault.Dropped() {
							dropped++
						}
					}
					mu.Unlock()
				}
			})
			sent := 0
			check := func() {
				synctest.Wait()
				mu.Lock()
				defer mu.Unlock()
				held, _ := d.Held()
				if sent != seen-copies+held.Frames {
					rt.Fatalf("%d sent; %d seen, %d of them copies; %+v held", sent, seen, copies, held)
				}
				if s := d.InStats(); int(s.Dropped()) != dropped || s.Duplicated != uint64(copies+held.Duplicated) {
					rt.Fatalf("%+v, %d seen dropped, %d copies, %+v", s, dropped, copies, held)
				}
			}
			for _, s := range steps {
				switch {
				case s < len(texts):
					r := ruled(t, texts[s])
					r.Seed = seed
					d.SetRules(ImpairOptions{In: r})
				case s < len(texts)+15:
					b.Write(0, out(datagram(uint32(sent), 90*(s-len(texts)+1))), true)
					sent++
				default:
					time.Sleep(time.Duration(s) * time.Millisecond / 8)
				}
				check()
			}
			time.Sleep(time.Minute)
			check()
			d.Close()
			wg.Wait()
			b.Close()
		})
	})
}

// BenchmarkImpair is the price of the wrapper: a bare pipe, one without rules, and one
// whose rule never hits.
func BenchmarkImpair(b *testing.B) {
	for _, c := range []struct{ name, rules string }{{"bare", ""}, {"none", "none"}, {"loss", "loss:0.000001%"}} {
		b.Run(c.name, func(b *testing.B) {
			x, y := Pipe(PipeOptions{}, PipeOptions{})
			w, r := Device(x), Device(y)
			if c.rules != "" {
				w = Impair(x, ImpairOptions{Out: ruled(b, c.rules)})
				r = Impair(y, ImpairOptions{In: ruled(b, c.rules)})
			}
			defer w.Close()
			defer r.Close()
			outs := make([]Out, 32)
			for i := range outs {
				outs[i] = out(datagram(uint32(i), 1400))[0]
			}
			frames, tail := batch(64)
			b.ReportAllocs()
			for n := 0; n < b.N; n += len(outs) {
				if _, err := w.Write(0, outs, true); err != nil {
					b.Fatal(err)
				}
				for left := len(outs); left > 0; {
					for i := range frames {
						frames[i] = Frame{Head: frames[i].Head[:HeadSize]}
					}
					n, err := r.Read(0, frames, tail)
					if err != nil {
						b.Fatal(err)
					}
					left -= n
				}
			}
		})
	}
}
