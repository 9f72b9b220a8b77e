package dhcp

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// stored runs f with a store on dir and hands back what a second opening restores.
func stored(t *testing.T, dir string, now time.Time, f func(*store)) map[string]binding {
	t.Helper()
	st, err := openStore(dir, 0, testStart, func(binding) bool { return true })
	require.NoError(t, err)
	f(st)
	require.NoError(t, st.close())
	got := map[string]binding{}
	st, err = openStore(dir, 0, now, func(b binding) bool { got[b.addr.String()] = b; return true })
	require.NoError(t, err)
	require.NoError(t, st.close())
	return got
}

func lease(addr, key string, until time.Time) *binding {
	return &binding{addr: netip.MustParseAddr(addr), key: key, state: bound, lease: time.Hour, until: until}
}

func TestStoreKeepsWhatRuns(t *testing.T) {
	hour := testStart.Add(time.Hour)
	bad := &binding{addr: netip.MustParseAddr("10.77.0.6"), state: declined, until: hour}
	got := stored(t, t.TempDir(), testStart.Add(30*time.Minute), func(st *store) {
		require.NoError(t, st.commit([]change{
			put(lease("10.77.0.3", "i\x00a", hour)),
			put(lease("10.77.0.4", "hb", testStart.Add(time.Minute))),
			put(lease("10.77.0.5", "hc", hour)),
			put(bad),
		}))
		require.NoError(t, st.commit([]change{del(netip.MustParseAddr("10.77.0.5"))}))
	})
	require.Len(t, got, 2)
	require.Equal(t, "i\x00a", got["10.77.0.3"].key)
	require.Equal(t, time.Hour, got["10.77.0.3"].lease)
	require.True(t, got["10.77.0.3"].until.Equal(hour))
	require.Equal(t, declined, got["10.77.0.6"].state)
}

func TestStoreDropsEndedAndRefused(t *testing.T) {
	dir := t.TempDir()
	stored(t, dir, testStart.Add(2*time.Hour), func(st *store) {
		require.NoError(t, st.commit([]change{put(lease("10.77.0.3", "ha", testStart.Add(time.Hour)))}))
	})
	got := stored(t, dir, testStart, func(*store) {}) // the clock of another day: the record is gone
	require.Empty(t, got)
}

func TestStoreLocked(t *testing.T) {
	dir := t.TempDir()
	st, err := openStore(dir, 0, testStart, nil)
	require.NoError(t, err)
	defer st.close()
	_, err = openStore(dir, 0, testStart, nil)
	require.ErrorContains(t, err, "another process holds the lease file")
}

func TestStoreNoDirectory(t *testing.T) {
	_, err := openStore(filepath.Join(t.TempDir(), "none"), 0, testStart, nil)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// Whatever lies in the file, opening it is an error that says what to do, or works.
func TestStoreDamaged(t *testing.T) {
	dir := t.TempDir()
	stored(t, dir, testStart, func(st *store) {
		var cs []change
		a := netip.MustParseAddr("10.77.0.0")
		for range 400 {
			a = a.Next()
			cs = append(cs, put(lease(a.String(), "h"+a.String(), testStart.Add(time.Hour))))
		}
		require.NoError(t, st.commit(cs))
	})
	whole, err := os.ReadFile(filepath.Join(dir, "leases.db"))
	require.NoError(t, err)
	page := os.Getpagesize()
	damage := map[string]func([]byte) []byte{
		"text":       func([]byte) []byte { return []byte(strings.Repeat("not a lease file\n", 1000)) },
		"short text": func([]byte) []byte { return []byte("x") },
		"truncated":  func(b []byte) []byte { return b[:page*3] },
		"metas gone": func(b []byte) []byte { clear(b[:2*page]); return b },
		"data gone":  func(b []byte) []byte { clear(b[2*page:]); return b },
		"data noise": func(b []byte) []byte {
			for i := range b[2*page:] {
				b[2*page+i] = byte(i*7 + i>>8)
			}
			return b
		},
	}
	for name, f := range damage {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "leases.db")
			require.NoError(t, os.WriteFile(path, f(append([]byte(nil), whole...)), 0o600))
			for range 2 { // twice: the first attempt must not keep the lock
				_, err := openStore(dir, 0, testStart, func(binding) bool { return true })
				require.ErrorContains(t, err, "the lease file is damaged")
				require.ErrorContains(t, err, path)
			}
		})
	}
	for i := 0; i < len(whole); i += 501 { // one byte, all over the file
		b := append([]byte(nil), whole...)
		b[i] ^= 0xff
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "leases.db"), b, 0o600))
		if st, err := openStore(dir, 0, testStart, func(binding) bool { return true }); err == nil {
			st.close()
		}
	}
}

func TestRecords(t *testing.T) {
	for _, v := range []string{"", "\x01", "\x02\x02123456781234", "\x01\x01123456781234", "\x01\x09123456781234"} {
		_, err := decode([]byte{10, 77, 0, 3}, []byte(v))
		require.Error(t, err, "%q", v)
	}
	_, err := decode([]byte{10, 77, 0}, encode(lease("10.77.0.3", "ha", testStart)))
	require.Error(t, err)
}
