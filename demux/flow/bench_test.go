package flow

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"porthole/demux"
	"porthole/demux/packet"
)

// bulk is a table full of established flows, and one data segment of each.
type bulk struct {
	t    *Table
	segs [][]byte
	info []packet.Info
	seq  []uint32
}

func newBulk(tb testing.TB, o Options, flows int) *bulk {
	b := &bulk{t: New(o)}
	for n := range flows {
		k := Key{packet.TCP, netip.AddrPortFrom(hostAddr, 80),
			netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 77, byte(2 + n>>16), byte(n >> 8)}), uint16(1024+n&255))}
		w := wire{tb, b.t, int64(n), k, 1000, 9000}
		w.handshake()
		w.in(packet.ACK, 1, 1, 1000)
		seg := w.segment(In, packet.ACK, 1001, 1, 1000)
		i, p := packet.Parse(seg, len(seg))
		if p != packet.None {
			tb.Fatal(p)
		}
		b.segs = append(b.segs, seg[:i.Payload])
		b.info = append(b.info, i)
		b.seq = append(b.seq, 1000+1001)
	}
	return b
}

// send is the next data segment of flow n.
func (b *bulk) send(now int64, n int) bool {
	seg := b.segs[n]
	s := b.seq[n]
	binary.BigEndian.PutUint32(seg[24:], s)
	b.seq[n] = s + 1000
	return b.t.data(now, In, seg, &b.info[n])
}

// BenchmarkData is a data segment of an established flow among 65,536: of one flow
// that sends bulk data, of 64 and 1,024 in turns, and of any. All are made in one
// buffer, as a device's ring is warm; "off" is the same without a table. best-ns is of
// the best 4,096 in a row, which a busy machine disturbs less.
func BenchmarkData(b *testing.B) {
	const flows, batch = 1 << 16, 1 << 12
	r := newBulk(b, Options{}, flows)
	seg, info := r.segs[0], r.info[0]
	type who struct {
		addrs uint64
		seq   uint32
		port  uint16
	}
	all := make([]who, flows)
	for i := range all {
		all[i] = who{binary.BigEndian.Uint64(r.segs[i][12:]), r.seq[i], r.info[i].SrcPort}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	order := make([]uint16, 1<<16)
	for i := range order {
		order[i] = uint16(rng.IntN(flows))
	}
	d := Decision{Fate: demux.ToStack}
	for _, active := range []int{1, 64, 1024, flows} {
		for _, t := range []*Table{nil, r.t} {
			name := fmt.Sprintf("active=%d", active)
			if t == nil {
				name = "off/" + name
			}
			b.Run(name, func(b *testing.B) {
				b.ReportAllocs()
				best, since := time.Hour, time.Now()
				for i := 0; i < b.N; i++ {
					if i%batch == batch-1 {
						best, since = min(best, time.Since(since)), time.Now()
					}
					w := &all[int(order[i&0xffff])&(active-1)]
					binary.BigEndian.PutUint64(seg[12:], w.addrs) // in one store, as it is read
					binary.BigEndian.PutUint32(seg[24:], w.seq)
					info.SrcPort = w.port
					if t != nil {
						w.seq += 1000
					}
					t.In(int64(i)*1000, seg, &info, d)
				}
				b.ReportMetric(float64(best.Nanoseconds())/batch, "best-ns")
			})
		}
	}
}
