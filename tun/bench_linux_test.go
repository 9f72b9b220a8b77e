package tun

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkKernelRead takes datagrams of 1000 bytes that wait in the kernel's ring.
func BenchmarkKernelRead(b *testing.B) {
	for _, kind := range []string{KindOffload, KindWater} {
		b.Run(kind, func(b *testing.B) {
			netns(b)
			d := open(b, Options{Name: "ph0", Kind: kind, Peer4: machine4})
			sock, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(fromMachine))
			require.NoError(b, err)
			defer sock.Close()
			reader := newReader(64)
			const waiting = 256 // the ring holds 500
			b.ReportAllocs()
			for n := 0; n < b.N; n += waiting {
				b.StopTimer()
				for range waiting {
					if _, err := sock.WriteToUDPAddrPort(reader.tail[:972], toHost); err != nil {
						b.Fatal(err)
					}
				}
				b.StartTimer()
				for left := waiting; left > 0; {
					left -= reader.read(b, d)
				}
			}
		})
	}
}

// BenchmarkKernelWrite gives the kernel datagrams of 1000 bytes for a socket that
// is soon full: its whole receive path, and no answer.
func BenchmarkKernelWrite(b *testing.B) {
	for _, kind := range []string{KindOffload, KindWater} {
		b.Run(kind, func(b *testing.B) {
			netns(b)
			d := open(b, Options{Name: "ph0", Kind: kind, Peer4: machine4})
			sock, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(fromMachine))
			require.NoError(b, err)
			defer sock.Close()
			p := udp(toHost, fromMachine, make([]byte, 972))
			outs := []Out{{Pieces: [][]byte{p[:28], p[28:]}}}
			b.ReportAllocs()
			for range b.N {
				if _, err := d.Write(0, outs, true); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A frame through a kernel device allocates nothing, in or out.
func TestKernelDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		return // pools drop at random under the race detector
	}
	for _, kind := range []string{KindOffload, KindWater} {
		t.Run(kind, func(t *testing.T) {
			netns(t)
			d := open(t, Options{Name: "ph0", Kind: kind, Peer4: machine4})
			sock, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(fromMachine))
			require.NoError(t, err)
			defer sock.Close()
			reader := newReader(8)
			question := make([]byte, 1000)
			outs := out(udp(toHost, fromMachine, question))
			require.Less(t, testing.AllocsPerRun(300, func() {
				if _, err := sock.WriteToUDPAddrPort(question, toHost); err != nil {
					t.Fatal(err)
				}
				if n := reader.read(t, d); n != 1 {
					t.Fatal(n)
				}
				for _, wait := range []bool{true, false} {
					if _, err := d.Write(0, outs, wait); err != nil {
						t.Fatal(err)
					}
				}
			}), 0.1)
		})
	}
}
