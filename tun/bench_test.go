package tun

import (
	"fmt"
	"testing"
)

// BenchmarkPipe moves batches of 32 frames through a Pipe, writer and reader in
// turn: the price of the copies and the bookkeeping, without that of wake-ups.
func BenchmarkPipe(b *testing.B) {
	for _, size := range []int{64, 1500, 65535} {
		b.Run(fmt.Sprintf("%d", size), func(b *testing.B) {
			w, r := Pipe(PipeOptions{MTU: 65535}, PipeOptions{MTU: 65535})
			defer w.Close()
			outs := make([]Out, 32)
			for i := range outs {
				outs[i] = out(pattern(i, size))[0]
			}
			reader := newReader(len(outs))
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for n := 0; n < b.N; n += len(outs) {
				if _, err := w.Write(0, outs, true); err != nil {
					b.Fatal(err)
				}
				for left := len(outs); left > 0; {
					left -= reader.read(b, r)
				}
			}
		})
	}
}

// BenchmarkPipeConcurrent has the reader in a goroutine of its own.
func BenchmarkPipeConcurrent(b *testing.B) {
	for _, size := range []int{64, 1500, 65535} {
		b.Run(fmt.Sprintf("%d", size), func(b *testing.B) {
			w, r := Pipe(PipeOptions{MTU: 65535}, PipeOptions{MTU: 65535})
			defer w.Close()
			outs := make([]Out, 32)
			for i := range outs {
				outs[i] = out(pattern(i, size))[0]
			}
			done := make(chan struct{})
			total := (b.N + len(outs) - 1) / len(outs) * len(outs)
			go func() {
				defer close(done)
				reader := newReader(64)
				for left := total; left > 0; {
					left -= reader.read(b, r)
				}
			}()
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for n := 0; n < total; n += len(outs) {
				if _, err := w.Write(0, outs, true); err != nil {
					b.Fatal(err)
				}
			}
			<-done
		})
	}
}

// reader keeps the buffers of a read loop.
type reader struct {
	frames []Frame
	heads  [][]byte
	tail   []byte
}

func newReader(n int) *reader {
	r := &reader{heads: make([][]byte, n)}
	r.frames, r.tail = batch(n)
	for i := range r.frames {
		r.heads[i] = r.frames[i].Head
	}
	return r
}

func (r *reader) read(tb testing.TB, d Device) int {
	for i := range r.frames {
		r.frames[i].Head = r.heads[i]
	}
	n, err := d.Read(0, r.frames, r.tail)
	if err != nil {
		tb.Error(err)
	}
	return n
}
