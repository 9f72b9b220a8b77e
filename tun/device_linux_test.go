package tun

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var (
	fromMachine = netip.AddrPortFrom(machine4.Addr(), 4000)
	toHost      = netip.AddrPortFrom(host4.Addr(), 9)
)

// Frames of every size cross each device both ways, whole and in order.
func TestDeviceFrames(t *testing.T) {
	for name, open := range rigs {
		t.Run(name, func(t *testing.T) {
			r := open(t)
			largest := min(r.Facts().MTU, 3000) - 28
			for i, n := range []int{1, 64, HeadSize - 29, HeadSize - 28, HeadSize - 27, largest} {
				n = min(n, largest)
				in := udp(fromMachine, toHost, pattern(i, n))
				r.put(t, in)
				require.Equal(t, in, payload(r, readWhere(t, r, ours(r)).b), "in, %d bytes", n)

				reply := udp(toHost, fromMachine, pattern(i+100, n))
				whole := reply
				if hw := r.Facts().HW; hw != nil {
					whole = etherHeader(peerHW(r.Facts()), hw, reply)
				}
				cut := n / 2
				w, err := r.Write(0, []Out{{Pieces: [][]byte{whole[:cut], {}, whole[cut:]}}}, i%2 == 0)
				require.NoError(t, err)
				require.Equal(t, 1, w)
				require.Equal(t, whole, r.take(t), "out, %d bytes", n)
			}
		})
	}
}

// A batch takes all that is there without waiting again.
func TestDeviceBatch(t *testing.T) {
	for name, open := range rigs {
		if name == KindTAP {
			continue // other frames of the link come between
		}
		t.Run(name, func(t *testing.T) {
			r := open(t)
			for i := range 20 {
				r.put(t, udp(fromMachine, toHost, pattern(i, 100)))
			}
			want := 8
			if r.Facts().Kind == KindWater {
				want = 1
			}
			for i := 0; i < 16; i += want {
				g := read(t, r, 0, 8)
				require.Len(t, g, want)
				for k := range g {
					require.Equal(t, pattern(i+k, 100), g[k].b[28:])
				}
			}
			require.Len(t, read(t, r, 0, 8), min(want, 4))
		})
	}
}

// What a caller gets wrong is an error before a frame can be cut or lost.
func TestDeviceMisuse(t *testing.T) {
	for name, open := range rigs {
		t.Run(name, func(t *testing.T) {
			r := open(t)
			frames, tail := batch(2)
			_, err := r.Read(0, frames, tail[1:])
			require.ErrorIs(t, err, io.ErrShortBuffer)
			_, err = r.Read(0, nil, tail)
			require.ErrorIs(t, err, io.ErrShortBuffer)
			frames[1].Head = frames[1].Head[1:]
			_, err = r.Read(0, frames, tail)
			require.ErrorIs(t, err, io.ErrShortBuffer)
			for _, q := range []int{-1, 1} {
				_, err = r.Read(q, frames, tail)
				require.Error(t, err)
				_, err = r.Write(q, out(pattern(1, 60)), false)
				require.Error(t, err)
			}
			good := udp(toHost, fromMachine, pattern(1, 20))
			if hw := r.Facts().HW; hw != nil {
				good = etherHeader(peerHW(r.Facts()), hw, good)
			}
			n, err := r.Write(0, []Out{{Pieces: [][]byte{good}}, {Pieces: [][]byte{make([]byte, 66000)}}, {Pieces: [][]byte{good}}}, true)
			require.ErrorIs(t, err, ErrTooLong)
			require.Equal(t, 1, n, "the frames before it are taken")
			require.Equal(t, good, r.take(t))
			if !r.Facts().GSO {
				for _, o := range []Offload{{Flags: NeedsCsum}, {GSO: GSOTCP4, SegSize: 1000}} {
					_, err = r.Write(0, []Out{{Pieces: [][]byte{good}, Offload: o}}, true)
					require.ErrorIs(t, err, ErrOffloaded)
				}
			}
			if k := r.Facts().Kind; k == KindOffload && r.Facts().Name == "ph0" || k == KindWater {
				n, err = r.Write(0, []Out{{Pieces: [][]byte{good}}, {Pieces: [][]byte{pattern(0x10, 40)}}}, true)
				require.ErrorIs(t, err, ErrMalformed, "neither IPv4 nor IPv6")
				require.Equal(t, 1, n)
			}
		})
	}
}

func TestDeviceClose(t *testing.T) {
	for name, open := range rigs {
		t.Run(name, func(t *testing.T) {
			r := open(t)
			for range 3 { // take the noise of the link first, so that Read waits
				r.put(t, udp(fromMachine, toHost, []byte("x")))
			}
			for range 3 {
				readWhere(t, r, ours(r))
			}
			ended := make(chan error)
			go func() {
				for {
					frames, tail := batch(4)
					if _, err := r.Read(0, frames, tail); err != nil {
						ended <- err
						return
					}
				}
			}()
			require.NoError(t, r.Close())
			require.ErrorIs(t, <-ended, os.ErrClosed)
			frames, tail := batch(1)
			_, err := r.Read(0, frames, tail)
			require.ErrorIs(t, err, os.ErrClosed)
			for _, wait := range []bool{false, true} {
				_, err = r.Write(0, out(udp(toHost, fromMachine, []byte("x"))), wait)
				require.ErrorIs(t, err, os.ErrClosed)
			}
			require.NoError(t, r.Close(), "again")
		})
	}
}

func TestDeviceCloseInTraffic(t *testing.T) {
	for name, open := range rigs {
		t.Run(name, func(t *testing.T) {
			r := open(t)
			b := udp(toHost, fromMachine, pattern(1, 1000))
			if hw := r.Facts().HW; hw != nil {
				b = etherHeader(peerHW(r.Facts()), hw, b)
			}
			var wg sync.WaitGroup
			started := make(chan struct{}, 3)
			for i := range 3 {
				wg.Go(func() {
					for k := 0; ; k++ {
						if k == 10 {
							started <- struct{}{}
						}
						_, err := r.Write(0, out(b), i == 0)
						switch {
						case errors.Is(err, os.ErrClosed):
							return
						case err != nil && !errors.Is(err, ErrWouldBlock):
							t.Error(err)
							return
						case k >= 10 && r.Facts().Name == "pair":
							continue
						}
					}
				})
			}
			<-started
			require.NoError(t, r.Close())
			wg.Wait()
		})
	}
}

// A full descriptor blocks, or says that it would.
func TestDescriptorFull(t *testing.T) {
	r := descriptorRig(t)
	full := 0
	for ; ; full++ {
		n, err := r.Write(0, out(pattern(full, 1000)), false)
		if err != nil {
			require.ErrorIs(t, err, ErrWouldBlock)
			require.Zero(t, n)
			break
		}
	}
	require.Positive(t, full)
	done := make(chan error)
	go func() {
		_, err := r.Write(0, out(pattern(full, 1000)), true)
		done <- err
	}()
	for i := range full + 1 {
		require.Equal(t, pattern(i, 1000), r.take(t))
	}
	require.NoError(t, <-done)
	for {
		if _, err := r.Write(0, out(pattern(1, 1000)), false); err != nil {
			break
		}
	}
	go func() {
		_, err := r.Write(0, out(pattern(1, 1000)), true)
		done <- err
	}()
	require.NoError(t, r.Close())
	require.ErrorIs(t, <-done, os.ErrClosed, "Close frees a waiting Write")
}

// The header of a super-packet survives, in and out, and its HdrLen is made true.
func TestDescriptorOffload(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fds[1])
	d, err := newKernelDev(Facts{Name: "pair", Queues: 1, GSO: true}, fds[:1])
	require.NoError(t, err)
	defer d.Close()

	p := pattern(3, 60000)
	p[20+12] = 0x80 // data offset of 32 bytes
	o := Offload{Flags: NeedsCsum, GSO: GSOTCP4, HdrLen: 52, SegSize: 1448, CsumStart: 20, CsumOffset: 16}
	n, err := d.Write(0, []Out{{Pieces: [][]byte{p[:52], p[52:3000], p[3000:]}, Offload: o}}, true)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	b := make([]byte, 70000)
	k, err := unix.Read(fds[1], b)
	require.NoError(t, err)
	require.Equal(t, p, b[vnetSize:k])
	require.Equal(t, o, decodeVnet((*[vnetSize]byte)(b)))

	hint := o
	hint.HdrLen = 60000 // as the kernel says of a forwarded frame
	encodeVnet((*[vnetSize]byte)(b), &hint)
	_, err = unix.Write(fds[1], b[:k])
	require.NoError(t, err)
	require.Equal(t, []got{{p, o}}, read(t, d, 0, 8))

	// More pieces than vectors: gathered, not refused.
	var many [][]byte
	for i := 0; i < 3000; i += 10 {
		many = append(many, p[i:i+10])
	}
	_, err = d.Write(0, []Out{{Pieces: many, Offload: o}}, true)
	require.NoError(t, err)
	k, err = unix.Read(fds[1], b)
	require.NoError(t, err)
	require.Equal(t, p[:3000], b[vnetSize:k])
}

// Whatever the descriptor gives, header and all, is read whole and without panic.
func FuzzDescriptorRead(f *testing.F) {
	super := Offload{Flags: NeedsCsum, GSO: GSOTCP4, HdrLen: 40, SegSize: 1460, CsumStart: 20, CsumOffset: 16}
	for _, seed := range []struct {
		o Offload
		b []byte
	}{
		{Offload{}, udp(fromMachine, toHost, []byte("x"))},
		{super, pattern(1, HeadSize+1)},
		{super, pattern(1, 33)},
		{super, pattern(1, 32)}, // no data offset to read
		{Offload{GSO: GSOTCP6, CsumStart: 65535}, pattern(1, 65535)},
		{Offload{Flags: 255, GSO: 255}, []byte{0}},
		{Offload{}, nil},
	} {
		var hdr [vnetSize]byte
		encodeVnet(&hdr, &seed.o)
		f.Add(append(hdr[:], seed.b...))
	}
	f.Add([]byte{1, 2, 3}) // shorter than the header
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	require.NoError(f, err)
	d, err := newKernelDev(Facts{Name: "pair", Queues: 1, GSO: true}, fds[:1])
	require.NoError(f, err)
	f.Cleanup(func() { _ = d.Close(); _ = unix.Close(fds[1]) })
	end := append(make([]byte, vnetSize), "end"...)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > vnetSize+maxIP || len(b) == 0 {
			return
		}
		for _, m := range [][]byte{b, end} {
			_, err := unix.Write(fds[1], m)
			require.NoError(t, err)
		}
		g := read(t, d, 0, 2)
		if len(b) > vnetSize {
			require.Equal(t, b[vnetSize:], g[0].b)
			want := decodeVnet((*[vnetSize]byte)(b))
			if want.GSO != GSONone {
				want.HdrLen = g[0].HdrLen
			}
			require.Equal(t, want, g[0].Offload)
			if g = g[1:]; len(g) == 0 { // it used the tail
				g = read(t, d, 0, 2)
			}
		}
		require.Equal(t, []got{{b: []byte("end")}}, g)
	})
}

func TestDescriptorDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	a, err := newKernelDev(Facts{Name: "a", Queues: 1, GSO: true}, fds[:1])
	require.NoError(t, err)
	defer a.Close()
	b, err := newKernelDev(Facts{Name: "b", Queues: 1, GSO: true}, fds[1:])
	require.NoError(t, err)
	defer b.Close()
	outs := []Out{{Pieces: [][]byte{pattern(1, 40), pattern(2, 1400)}}, {Pieces: [][]byte{pattern(1, 40), pattern(2, 9000)}}}
	frames, tail := batch(4)
	heads := [][]byte{frames[0].Head, frames[1].Head, frames[2].Head, frames[3].Head}
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		if n, err := a.Write(0, outs, true); n != len(outs) || err != nil {
			t.Fatal(n, err)
		}
		for i := range frames {
			frames[i].Head = heads[i]
		}
		if n, err := b.Read(0, frames, tail); n != len(outs) || err != nil {
			t.Fatal(n, err)
		}
	}))
}

// Somebody takes the link down, up again, and then away.
func TestDeviceUnderAdministration(t *testing.T) {
	for _, kind := range []string{KindOffload, KindWater, KindTAP} {
		t.Run(kind, func(t *testing.T) {
			netns(t)
			d := open(t, Options{Name: "ph0", Kind: kind, Peer4: machine4})
			link, err := netlink.LinkByName("ph0")
			require.NoError(t, err)
			b := udp(toHost, fromMachine, []byte("x"))
			if hw := d.Facts().HW; hw != nil {
				b = etherHeader(peerHW(d.Facts()), hw, b)
			}
			require.NoError(t, netlink.LinkSetDown(link))
			_, err = d.Write(0, out(b), true)
			require.ErrorIs(t, err, ErrDown)
			require.NoError(t, netlink.LinkSetUp(link))
			_, err = d.Write(0, out(b), true)
			require.NoError(t, err)

			ended := make(chan error)
			go func() {
				for {
					frames, tail := batch(4)
					if _, err := d.Read(0, frames, tail); err != nil {
						ended <- err
						return
					}
				}
			}()
			require.NoError(t, netlink.LinkDel(link))
			require.ErrorIs(t, <-ended, ErrGone)
			_, err = d.Write(0, out(b), true)
			require.ErrorIs(t, err, ErrGone)
		})
	}
}
