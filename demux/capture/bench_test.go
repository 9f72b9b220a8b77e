package capture

import (
	"context"
	"fmt"
	"io"
	"testing"

	"porthole/demux"
)

// BenchmarkTap is what a datagram that finds its queue full costs, which is the least
// that one can: without a capture, with one that wants another fate, and with one that
// keeps it. "written" is the reader's side: a record in the file.
func BenchmarkTap(b *testing.B) {
	for _, size := range []int{18, 1400} {
		for name, o := range map[string]*Options{"off": nil, "other": {Fates: []demux.Fate{demux.ToStack}}, "on": {}, "written": {}} {
			b.Run(fmt.Sprintf("%dB/%s", size, name), func(b *testing.B) {
				r := newRig(b, nil)
				if err := r.table.Bind(demux.UDPPort(53), demux.Config{Socket: true, Limits: demux.Limits{Bytes: 1}}); err != nil {
					b.Fatal(err)
				}
				f := udp(4000, 53, string(make([]byte, size)))
				var c *Capture
				w := &file{}
				if o != nil {
					c = r.start(*o)
					w = newFile(c, io.Discard)
				}
				b.ReportAllocs()
				b.ResetTimer()
				for n := 0; n < b.N; n += demux.BatchSize {
					if name == "written" {
						b.StopTimer()
					}
					for i := range demux.BatchSize {
						r.in.Put(i, copy(r.in.Room(i), f.b), &f.off)
					}
					r.in.Deliver(demux.BatchSize)
					if name == "written" {
						b.StartTimer()
						w.write(c.buf.take())
					} else if c != nil && n%1024 == 0 {
						c.buf.take()
					}
				}
				b.StopTimer()
				if c != nil {
					c.Stop()
					_ = c.Stream(context.Background(), io.Discard)
				}
			})
		}
	}
}
