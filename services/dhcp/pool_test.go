package dhcp

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The allocator against a plain model of who may use which address until when: no
// address is ever promised twice, reserved ones go to nobody, a client that comes
// back finds its address unless somebody else has it, and nothing is refused while
// an address is free.
func TestPoolModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prefix := netip.MustParsePrefix("10.0.0.0/28")
		reserved := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.5")}
		size := 12
		most := rapid.IntRange(1, 16).Draw(t, "max")
		p := newPool(prefix, nil, reserved, most)
		require.Equal(t, min(size, most), p.size)

		type promise struct {
			key   string
			until time.Time
		}
		model := map[netip.Addr]promise{} // running ones alone
		last := map[string]netip.Addr{}   // where each client was last
		now := testStart
		address := rapid.Custom(func(t *rapid.T) netip.Addr {
			return netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(t, "host") % 18})
		})
		client := rapid.Custom(func(t *rapid.T) string { return fmt.Sprintf("h%d", rapid.IntRange(0, 19).Draw(t, "n")) })
		check := func(b *binding, key string, until time.Time) {
			require.True(t, prefix.Contains(b.addr) && !p.reserved[b.addr], "%v", b.addr)
			if m, ok := model[b.addr]; ok {
				require.Equal(t, m.key, key, "%v is promised twice", b.addr)
			}
			if old, ok := last[key]; ok && old != b.addr {
				m, taken := model[old]
				require.False(t, taken && m.key == key, "%s has %v and %v", key, old, b.addr)
			}
			model[b.addr], last[key] = promise{key, until}, b.addr
			require.False(t, b.ended(now))
		}
		t.Repeat(map[string]func(*rapid.T){
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 90).Draw(t, "s")) * time.Second)
				for a, m := range model {
					if !m.until.After(now) {
						delete(model, a)
					}
				}
			},
			"offer": func(t *rapid.T) {
				key, want := client.Draw(t, "client"), address.Draw(t, "want")
				hold := 10 * time.Second
				b := p.offer(key, want, time.Minute, hold, now)
				if b == nil {
					require.Len(t, model, p.size, "silent with an address free")
					return
				}
				if b.state == bound {
					require.Equal(t, model[b.addr].key, key)
					return
				}
				check(b, key, now.Add(hold))
			},
			"bind": func(t *rapid.T) {
				key, addr := client.Draw(t, "client"), address.Draw(t, "addr")
				if b := p.held(key); b != nil && !b.ended(now) && b.addr != addr {
					return // the server sends a NAK there
				}
				b := p.bind(key, addr, time.Minute, now)
				if b == nil {
					m, taken := model[addr]
					require.True(t, !prefix.Contains(addr) || p.reserved[addr] || taken && m.key != key || len(p.byAddr) == most)
					return
				}
				require.Equal(t, addr, b.addr)
				check(b, key, now.Add(time.Minute))
			},
			"release": func(t *rapid.T) {
				if b := p.held(client.Draw(t, "client")); b != nil {
					p.release(b, now)
					if model[b.addr].key == b.key {
						delete(model, b.addr)
					}
				}
			},
			"decline": func(t *rapid.T) {
				key := client.Draw(t, "client")
				b := p.held(key)
				if b == nil || b.ended(now) {
					return
				}
				p.decline(b, time.Minute, now)
				require.LessOrEqual(t, len(p.quarantine), max(1, p.size/2))
				delete(last, key)
				// The model follows the bound: the oldest quarantine may have ended.
				for a, m := range model {
					if m.key == "" && p.byAddr[a].ended(now) {
						delete(model, a)
					}
				}
				if delete(model, b.addr); !b.ended(now) {
					model[b.addr] = promise{"", b.until}
				}
			},
			"": func(t *rapid.T) {
				require.LessOrEqual(t, len(p.byAddr), most)
				require.Len(t, p.ends, len(p.byAddr))
				running := 0
				for _, b := range p.byAddr {
					if !b.ended(now) {
						running++
						require.True(t, model[b.addr].key == b.key && model[b.addr].until.Equal(b.until), "%+v", b)
					}
					if b.key != "" {
						require.Same(t, b, p.byKey[b.key])
					}
				}
				require.Len(t, model, running)
				for key, b := range p.byKey {
					require.Equal(t, key, b.key)
					require.Same(t, b, p.byAddr[b.addr])
				}
			},
		})
	})
}

func TestPoolRestore(t *testing.T) {
	p := newPool(netip.MustParsePrefix("10.77.0.0/24"), []Range{{netip.MustParseAddr("10.77.0.10"), netip.MustParseAddr("10.77.0.20")}},
		[]netip.Addr{netip.MustParseAddr("10.77.0.12")}, 3)
	hour := testStart.Add(time.Hour)
	for _, tt := range []struct {
		name string
		in   *binding
		want bool
	}{
		{"a lease", lease("10.77.0.10", "ha", hour), true},
		{"its address again", lease("10.77.0.10", "hb", hour), false},
		{"its client again", lease("10.77.0.11", "ha", hour), false},
		{"reserved since", lease("10.77.0.12", "hc", hour), false},
		{"no longer in the pool", lease("10.77.0.30", "hd", hour), false},
		{"nobody's", lease("10.77.0.13", "", hour), false},
		{"quarantined", &binding{addr: netip.MustParseAddr("10.77.0.14"), state: declined, until: hour}, true},
		{"the last that fits", lease("10.77.0.15", "he", hour), true},
		{"one more", lease("10.77.0.16", "hf", hour), false},
	} {
		require.Equal(t, tt.want, p.restore(*tt.in), tt.name)
	}
	require.Nil(t, p.offer("hz", netip.Addr{}, time.Hour, time.Minute, testStart))
	require.Equal(t, "10.77.0.10", p.offer("ha", netip.Addr{}, time.Hour, time.Minute, testStart).addr.String())
	require.NotNil(t, p.offer("hz", netip.Addr{}, time.Hour, time.Minute, hour))
}

// A pool of sixteen million addresses costs what is in use, and finding that it is
// used up costs one look.
func TestPoolLarge(t *testing.T) {
	p := newPool(netip.MustParsePrefix("127.0.0.1/8"), nil, []netip.Addr{netip.MustParseAddr("127.0.0.1")}, 1000)
	require.Equal(t, 1000, p.size)
	for i := range 1000 {
		require.NotNil(t, p.offer(fmt.Sprint(i), netip.Addr{}, time.Hour, time.Minute, testStart))
	}
	require.Nil(t, p.offer("more", netip.Addr{}, time.Hour, time.Minute, testStart))
	all := newPool(netip.MustParsePrefix("1.0.0.0/1"), nil, nil, 10)
	require.Equal(t, 10, all.size)
}
