package porthole_test

import (
	"io"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"porthole/demux/packet"
	"porthole/tun"
)

// TestFloodIsolation floods 53/udp and closed ports while HTTP requests go on: each
// request succeeds, the flooded queues keep their bounds, and every datagram is
// accounted for.
func TestFloodIsolation(t *testing.T) {
	n := 100000
	if testing.Short() {
		n = 10000
	}
	r := newHostile(t, tun.PipeOptions{})
	before := r.host.Health()
	at53 := func() (arrived uint64, queued, limit int) {
		for _, p := range r.host.Ports() {
			if p.Port.String() == "53/udp" {
				return p.Arrived, p.HighWater, p.LimitPackets
			}
		}
		return 0, 0, 0
	}
	first, _, _ := at53()

	var ended atomic.Bool
	requests := make(chan int, 1)
	go func() {
		done := 0
		defer func() { requests <- done }()
		for !ended.Load() || done < 20 {
			resp, err := r.http.Get("http://" + netip.AddrPortFrom(host4, 80).String() + "/blob/10000")
			if err != nil {
				t.Errorf("request %d: %v", done, err)
				return
			}
			size, err := io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if err != nil || size != 10000 || resp.StatusCode != 200 {
				t.Errorf("request %d: %d bytes, status %d, %v", done, size, resp.StatusCode, err)
				return
			}
			done++
		}
	}()
	query := []byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 4, 'h', 't', 't', 'p', 8, 'p', 'o', 'r', 't', 'h', 'o', 'l', 'e', 4, 't', 'e', 's', 't', 0, 0, 1, 0, 1}
	var flood [][]byte
	for i := range 256 {
		flood = append(flood,
			udp(ap(evil4, uint16(1000+i)), ap(host4, 53), query...),
			udp(ap(evil4, uint16(1000+i)), ap(host4, uint16(20000+i))),
			udp(ap(evil4, uint16(1000+i)), ap(host4, 53)), // empty
			seg(ap(evil4, uint16(1000+i)), ap(host4, uint16(20000+i)), packet.SYN, 1, 0))
	}
	for sent := 0; sent < n; sent += len(flood) {
		r.ip(flood...)
		r.wire.mu.Lock()
		r.wire.got = nil
		r.wire.mu.Unlock()
	}
	sent := uint64((n + len(flood) - 1) / len(flood) * len(flood))
	ended.Store(true)
	t.Logf("%d requests during %d packets", <-requests, sent)
	r.barrier()
	r.law()
	arrived, high, limit := at53()
	require.EqualValues(t, sent/2, arrived-first)
	require.LessOrEqual(t, high, limit)
	after := r.host.Health()
	require.GreaterOrEqual(t, after.Arrived["device"]-before.Arrived["device"], sent)
	t.Logf("fates: %v", after.Fates)
	r.alive()
}
