package tun

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestPipeAdmits(t *testing.T) {
	plain := PipeOptions{MTU: 1500}
	gso := PipeOptions{MTU: 1500, GSO: true}
	ether := PipeOptions{MTU: 1500, HW: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
	super := Offload{Flags: NeedsCsum, GSO: GSOTCP4, HdrLen: 40, SegSize: 1460, CsumStart: 20, CsumOffset: 16}
	for _, tc := range []struct {
		name string
		a, b PipeOptions
		size int
		o    Offload
		want error
	}{
		{"smallest", plain, plain, 1, Offload{}, nil},
		{"empty", plain, plain, 0, Offload{}, ErrMalformed},
		{"MTU", plain, plain, 1500, Offload{}, nil},
		{"MTU and one", plain, plain, 1501, Offload{}, ErrTooLong},
		{"MTU on Ethernet", ether, ether, 1518, Offload{}, nil},
		{"MTU and one on Ethernet", ether, ether, 1519, Offload{}, ErrTooLong},
		{"super-packet without GSO", plain, plain, 1500, super, ErrOffloaded},
		{"super-packet, GSO at one end", gso, plain, 1500, super, ErrOffloaded},
		{"super-packet", gso, gso, 65535, super, nil},
		{"super-packet and one", gso, gso, 65536, super, ErrTooLong},
		{"super-packet shorter than its headers", gso, gso, 39, super, ErrMalformed},
		{"super-packet of no segments", gso, gso, 3000, Offload{GSO: GSOTCP6, HdrLen: 40}, ErrMalformed},
		{"unknown segmentation", gso, gso, 100, Offload{GSO: 5, SegSize: 10}, ErrMalformed},
		{"partial checksum without GSO", plain, gso, 100, Offload{Flags: NeedsCsum}, ErrOffloaded},
		{"partial checksum at the end", gso, gso, 100, Offload{Flags: NeedsCsum, CsumStart: 80, CsumOffset: 18}, nil},
		{"partial checksum beyond the end", gso, gso, 100, Offload{Flags: NeedsCsum, CsumStart: 81, CsumOffset: 18}, ErrMalformed},
		{"GSO end, ordinary frame over the MTU", gso, gso, 1501, Offload{}, ErrTooLong},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, b := Pipe(tc.a, tc.b)
			defer a.Close()
			p := pattern(1, tc.size)
			n, err := a.Write(0, []Out{{Pieces: [][]byte{p[:tc.size/3], nil, p[tc.size/3:]}, Offload: tc.o}}, false)
			if tc.want != nil {
				require.ErrorIs(t, err, tc.want)
				require.Zero(t, n)
				return
			}
			require.NoError(t, err)
			require.Equal(t, []got{{p, tc.o}}, read(t, b, 0, 4))
		})
	}
}

func TestPipeBound(t *testing.T) {
	for _, bound := range []int{1, 2, PipeFrames} {
		a, b := Pipe(PipeOptions{}, PipeOptions{Frames: bound})
		frames := make([]Out, bound+1)
		for i := range frames {
			frames[i] = out(pattern(i, 20))[0]
		}
		n, err := a.Write(0, frames, false)
		require.ErrorIs(t, err, ErrWouldBlock)
		require.Equal(t, bound, n, "exactly the bound fits")
		n, err = a.Write(0, frames[:1], false)
		require.ErrorIs(t, err, ErrWouldBlock)
		require.Zero(t, n)
		require.Len(t, read(t, b, 0, 1), 1)
		n, err = a.Write(0, frames[bound:], false)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		g := read(t, b, 0, bound+1)
		require.Len(t, g, bound)
		require.Equal(t, pattern(bound, 20), g[bound-1].b)
		require.NoError(t, a.Close())
	}
}

// A batch ends with the frame that took the tail, and the next goes on after it.
func TestPipeTailEndsBatch(t *testing.T) {
	a, b := Pipe(PipeOptions{MTU: 9000}, PipeOptions{MTU: 9000})
	defer a.Close()
	sizes := []int{100, HeadSize, HeadSize + 1, 9000, 50}
	for i, n := range sizes {
		_, err := a.Write(0, out(pattern(i, n)), false)
		require.NoError(t, err)
	}
	for _, want := range [][]int{{0, 1, 2}, {3}, {4}} {
		g := read(t, b, 0, 64)
		require.Len(t, g, len(want))
		for k, i := range want {
			require.Equal(t, pattern(i, sizes[i]), g[k].b)
		}
	}
}

func TestPipeQueues(t *testing.T) {
	a, b := Pipe(PipeOptions{Queues: 3}, PipeOptions{Queues: 2})
	defer a.Close()
	require.Equal(t, 3, a.Facts().Queues)
	for q := range 3 {
		_, err := a.Write(q, out([]byte{byte(q)}), false)
		require.NoError(t, err)
	}
	require.Equal(t, []got{{b: []byte{0}}, {b: []byte{2}}}, read(t, b, 0, 8))
	require.Equal(t, []got{{b: []byte{1}}}, read(t, b, 1, 8))
	for _, q := range []int{-1, 2} {
		_, err := b.Write(q, out([]byte{1}), false)
		require.Error(t, err)
		frames, tail := batch(1)
		_, err = b.Read(q, frames, tail)
		require.Error(t, err)
	}
}

// Whatever is written below the bound arrives once, whole and in order.
func TestPipeProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		bound := rapid.IntRange(1, 9).Draw(rt, "bound")
		a, b := Pipe(PipeOptions{GSO: true, MTU: 65535}, PipeOptions{GSO: true, Frames: bound})
		defer a.Close()
		var model []got
		id := 0
		rt.Repeat(map[string]func(*rapid.T){
			"write": func(rt *rapid.T) {
				sizes := rapid.SliceOfN(rapid.OneOf(rapid.IntRange(1, 90), rapid.IntRange(HeadSize-1, HeadSize+1), rapid.IntRange(1, 65535)), 1, 12).Draw(rt, "sizes")
				var frames []Out
				for _, n := range sizes {
					p := pattern(id, n)
					cut := rapid.IntRange(0, n).Draw(rt, "cut")
					frames = append(frames, Out{Pieces: [][]byte{p[:cut], p[cut:]}, Offload: Offload{Flags: DataValid, CsumStart: uint16(id)}})
					id++
				}
				n, err := a.Write(0, frames, false)
				fits := min(len(frames), bound-len(model))
				if n != fits || (err == nil) != (fits == len(frames)) || err != nil && !errors.Is(err, ErrWouldBlock) {
					rt.Fatalf("wrote %d, %v; room for %d of %d", n, err, fits, len(frames))
				}
				for i, f := range frames[:n] {
					model = append(model, got{append(append([]byte(nil), f.Pieces[0]...), f.Pieces[1]...), frames[i].Offload})
					clear(f.Pieces[0]) // the pieces are the caller's again
					clear(f.Pieces[1])
				}
			},
			"read": func(rt *rapid.T) {
				if len(model) == 0 {
					rt.Skip("nothing there")
				}
				frames, tail := batch(rapid.IntRange(1, 12).Draw(rt, "most"))
				n, err := b.Read(0, frames, tail)
				if err != nil || n == 0 || n > len(model) {
					rt.Fatalf("read %d, %v; %d are there", n, err, len(model))
				}
				for i, f := range frames[:n] {
					if string(f.Head)+string(f.Tail) != string(model[i].b) || f.Offload != model[i].Offload {
						rt.Fatalf("frame %d differs", i)
					}
					if (len(f.Tail) > 0) && i != n-1 {
						rt.Fatalf("frame %d of %d used the tail", i, n)
					}
				}
				if full := n == len(frames) || n == len(model); !full && len(frames[n-1].Tail) == 0 {
					rt.Fatalf("read %d of %d without need", n, len(model))
				}
				model = model[n:]
			},
		})
	})
}

// Many writers that wait, one reader: each writer's frames arrive in its order.
func TestPipeConcurrent(t *testing.T) {
	const writers, each = 4, 2000
	a, b := Pipe(PipeOptions{MTU: 3000}, PipeOptions{Frames: 7})
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := 0; i < each; i += 2 {
				var frames []Out
				for k := range 2 {
					p := make([]byte, 8+(i*13+k)%2900)
					binary.BigEndian.PutUint32(p, uint32(w))
					binary.BigEndian.PutUint32(p[4:], uint32(i+k))
					frames = append(frames, out(p)...)
				}
				if n, err := a.Write(0, frames, true); n != 2 || err != nil {
					t.Errorf("write: %d, %v", n, err)
				}
			}
		})
	}
	next := [writers]uint32{}
	frames, tail := batch(16)
	for total := 0; total < writers*each; {
		for i := range frames {
			frames[i].Head = frames[i].Head[:HeadSize]
		}
		n, err := b.Read(0, frames, tail)
		require.NoError(t, err)
		for _, f := range frames[:n] {
			w, i := binary.BigEndian.Uint32(f.Head), binary.BigEndian.Uint32(f.Head[4:])
			require.Equal(t, next[w], i)
			next[w]++
		}
		total += n
	}
	wg.Wait()
	require.NoError(t, a.Close())
}

// Every call that waits when an end closes, and every one after, ends as it should.
func TestPipeClose(t *testing.T) {
	closed := func(t *testing.T, d Device) {
		frames, tail := batch(1)
		_, err := d.Read(0, frames, tail)
		require.ErrorIs(t, err, os.ErrClosed)
		for _, wait := range []bool{false, true} {
			_, err = d.Write(0, out([]byte{1}), wait)
			require.ErrorIs(t, err, os.ErrClosed)
		}
		require.NoError(t, d.Close())
	}
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe(PipeOptions{}, PipeOptions{Frames: 1})
		_, err := a.Write(0, out([]byte{1}), false)
		require.NoError(t, err)
		errs := make(chan error, 3)
		go func() {
			_, err := a.Write(0, out([]byte{2}), true) // full: waits
			errs <- err
		}()
		go func() {
			frames, tail := batch(1)
			_, err := a.Read(0, frames, tail) // empty: waits
			errs <- err
		}()
		synctest.Wait()
		require.NoError(t, a.Close())
		require.ErrorIs(t, <-errs, os.ErrClosed)
		require.ErrorIs(t, <-errs, os.ErrClosed)
		closed(t, a)
		require.Equal(t, []got{{b: []byte{1}}}, read(t, b, 0, 4), "what was written before is read")
		closed(t, b)
	})
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe(PipeOptions{Frames: 1}, PipeOptions{Frames: 1})
		_, err := a.Write(0, out([]byte{1}), false)
		require.NoError(t, err)
		errs := make(chan error, 2)
		go func() {
			_, err := a.Write(0, out([]byte{2}), true)
			errs <- err
		}()
		go func() {
			frames, tail := batch(1)
			_, err := a.Read(0, frames, tail)
			errs <- err
		}()
		synctest.Wait()
		require.NoError(t, b.Close()) // the peer's calls end too
		require.ErrorIs(t, <-errs, os.ErrClosed)
		require.ErrorIs(t, <-errs, os.ErrClosed)
		closed(t, a)
		closed(t, b)
	})
}

func TestPipeCloseInTraffic(t *testing.T) {
	for i := range 50 {
		a, b := Pipe(PipeOptions{Frames: 4}, PipeOptions{Frames: 4})
		var wg sync.WaitGroup
		for _, d := range []Device{a, b} {
			wg.Go(func() {
				for {
					if _, err := d.Write(0, out(pattern(1, 1400)), true); err != nil {
						if !errors.Is(err, os.ErrClosed) {
							t.Error(err)
						}
						return
					}
				}
			})
			wg.Go(func() {
				for {
					frames, tail := batch(4)
					if _, err := d.Read(0, frames, tail); err != nil {
						if !errors.Is(err, os.ErrClosed) {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		if i%2 == 0 {
			_ = a.Close()
		} else {
			_ = b.Close()
		}
		wg.Wait()
	}
}

func TestPipeDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("pools drop at random under the race detector")
	}
	a, b := Pipe(PipeOptions{GSO: true}, PipeOptions{GSO: true})
	defer a.Close()
	frames, tail := batch(8)
	heads := make([][]byte, len(frames))
	for i := range frames {
		heads[i] = frames[i].Head
	}
	outs := append(out(pattern(1, 64)), out(pattern(2, 1500))...)
	outs = append(outs, Out{Pieces: [][]byte{pattern(3, 40), pattern(4, 60000)}, Offload: Offload{Flags: NeedsCsum, GSO: GSOTCP4, HdrLen: 40, SegSize: 1460}})
	round := func() {
		if n, err := a.Write(0, outs, true); n != len(outs) || err != nil {
			t.Fatal(n, err)
		}
		for left := len(outs); left > 0; {
			for i := range frames {
				frames[i].Head = heads[i]
			}
			n, err := b.Read(0, frames, tail)
			if err != nil {
				t.Fatal(err)
			}
			left -= n
		}
	}
	for range PipeFrames { // every slot has its buffer after that
		round()
	}
	require.Less(t, testing.AllocsPerRun(1000, round), 0.1)
}
