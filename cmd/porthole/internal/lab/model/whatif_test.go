package model

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"porthole/cmd/porthole/internal/lab"
)

// flowsFile is ten datagrams that come at once and are answered 10 ms after each other.
func flowsFile(t *testing.T) string {
	t.Helper()
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var b strings.Builder
	for i := range 10 {
		fmt.Fprintf(&b, `{"id":"f%x","proto":"udp","local":"10.77.0.1:53","remote":"10.77.0.2:%d","state":"open","began":%q,"seen":%q,"in":{},"out":{},"ladder":[{"at_ns":0,"dir":"in","what":"segment"},{"at_ns":%d,"dir":"out","what":"segment"}],"handshake_rung":-1}`+"\n",
			i+1, 4000+i, began.Format(time.RFC3339Nano), began.Format(time.RFC3339Nano), time.Duration(i+1)*10*time.Millisecond)
	}
	path := filepath.Join(t.TempDir(), "flows.json")
	require.NoError(t, os.WriteFile(path, []byte(b.String()), 0o600))
	return path
}

// is finds the row that is called so.
func is(t *testing.T, r lab.Result, word string) []any {
	t.Helper()
	for _, row := range r.Rows {
		if strings.Contains(row[7].(string), word) {
			return row
		}
	}
	t.Fatalf("no row is %s", word)
	return nil
}

func TestWhatIf(t *testing.T) {
	path := flowsFile(t)
	// One is served at once, nine wait: nine places lose nobody, and nobody minds.
	r := run(t, &WhatIf, 1, "from="+path, "deadline=1s")
	row := is(t, r, "sufficient")
	require.Equal(t, []any{"tail-drop", 9., 0., 0.}, row[:4])
	require.Contains(t, row[7], "best")
	require.Contains(t, r.Saw, "`porthole set 53/udp queue=9` would have served it best: of 10 requests 0 lost, 99 % of the others waited less than 90ms, and 100.0 % were answered within 1s")
	require.Equal(t, "flows.json: 10 datagrams to 53/udp in 1µs, mean service time 10ms, load 100000.00", r.Setup[0])

	// A third of the time: only the first three are of use, however long the queue.
	r = run(t, &WhatIf, 1, "from="+path, "deadline=35ms", "policy=tail-drop")
	for _, row := range r.Rows {
		require.Equal(t, 10*min(row[1].(float64)+1, 3), row[6])
	}

	// A service that is never busy needs a place at most.
	r = run(t, &WhatIf, 1, "from="+path, "service=0s")
	require.Equal(t, 1., is(t, r, "sufficient")[1])
}

func TestWhatIfBadInput(t *testing.T) {
	for _, tt := range []struct{ set, want string }{
		{"from=", "what-if: from: no file; give a capture, or what porthole flows --json printed"},
		{"port=53", `what-if: port: "53" is no port; want NUMBER/udp, NUMBER/tcp or busiest`},
		{"port=0/udp", `what-if: port: "0/udp" is no port; want NUMBER/udp, NUMBER/tcp or busiest`},
		{"service=fast", `what-if: service: "fast" is no service time; want a duration of up to 1h (2ms), exp(DURATION) or recorded`},
		{"service=exp(2ms", `what-if: service: "exp(2ms" is no service time; want a duration of up to 1h (2ms), exp(DURATION) or recorded`},
	} {
		_, err := WhatIf.Values(false, []string{tt.set})
		require.EqualError(t, err, tt.want)
	}
	_, err := lab.Do(t.Context(), &WhatIf, lab.Options{Seed: 1, Set: []string{"from=" + flowsFile(t), "port=80/tcp"}}, "test", nil)
	require.EqualError(t, err, "flows.json: nothing came to 80/tcp; most came to 53/udp")
}

// TestDoorPlaces: connections that come at once find as many places as the door has.
func TestDoorPlaces(t *testing.T) {
	all := make([]arrival, 10)
	for i := range all {
		all[i].serve = int64(time.Millisecond)
	}
	for places := 1; places <= 10; places++ {
		o, err := playDoor(t.Context(), places, all, time.Second)
		require.NoError(t, err)
		require.Equal(t, max(9-places, 0), o.lost)
		require.Equal(t, min(places, 9), o.high)
	}
}
