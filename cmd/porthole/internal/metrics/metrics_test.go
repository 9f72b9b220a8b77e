package metrics

import (
	"encoding/json"
	"io"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"porthole"
	"porthole/internal/leak"
	"porthole/services"
)

func TestMain(m *testing.M) { leak.Main(m) }

type fakeHost struct{ ports []porthole.PortStatus }

func (h fakeHost) Ports() []porthole.PortStatus { return h.ports }

func (fakeHost) Health() porthole.Health {
	return porthole.Health{Name: "a", Version: "1", Device: "ph0", Kind: "offload", Ready: true, Started: time.Unix(1700000000, 5e8)}
}

func (fakeHost) Ledger() porthole.Ledger {
	return porthole.Ledger{
		Arrived: 12, Kinds: map[string]uint64{"device": 12}, Fates: map[string]uint64{"to-stack": 9, "queue-full": 2}, Queued: 1, LawOK: true,
		Device: &porthole.DeviceCounters{InPackets: 12, InDropped: 3},
		Knocks: &porthole.Knocks{Ports: 4, Packets: 9}, Stack: &porthole.StackCounters{Dropped: 5, Invalid: 6, TimeWaitOverflow: 7, AbortOnMemory: 8, AbortOnTimeout: 9},
		Link: &porthole.LinkStatus{Out: &porthole.Impairment{Rules: "none", Arrived: 8, Passed: 6, Lost: 2}},
	}
}

func (fakeHost) FlowStats() porthole.FlowStats {
	return porthole.FlowStats{Flows: 5, Limit: 9, Seen: 7, Evicted: 2}
}

func (fakeHost) CaptureTotals() porthole.CaptureTotals {
	return porthole.CaptureTotals{Started: 3, Running: 1, Accepted: 20, Missed: 4, Written: 16}
}

func twoPorts() fakeHost {
	return fakeHost{[]porthole.PortStatus{
		{Port: services.TCP(80), Service: "http", State: "answering", Declared: true, Arrived: 10, Queued: 1, LimitPackets: 64, HighWater: 64,
			Accept: 2, AcceptLimit: 1, AcceptHigh: 2, SynLimit: 8, Fates: map[string]uint64{"to-stack": 7, "queue-full": 2},
			ImpairIn:   &porthole.Impairment{Rules: "delay:50ms", Arrived: 7, Passed: 4, Delayed: 7, Waiting: 3},
			WaitCounts: [13]uint64{3, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2}, WaitSum: 90 * time.Second},
		{Port: services.TCP(40000), Service: "ftp", State: "listening", Arrived: 1},
		{Port: services.UDP(53), Service: "dns", State: "failed", Declared: true, LimitPackets: 1024},
	}}
}

func TestMetrics(t *testing.T) {
	require.NoError(t, testutil.CollectAndCompare(Collector(twoPorts()), strings.NewReader(`
# HELP porthole_port_accept_queue_connections Established connections that the service has not taken.
# TYPE porthole_port_accept_queue_connections gauge
porthole_port_accept_queue_connections{port="80/tcp",service="http"} 2
# HELP porthole_port_answering 1 when the port's self-test was answered and its service runs.
# TYPE porthole_port_answering gauge
porthole_port_answering{port="53/udp",service="dns"} 0
porthole_port_answering{port="80/tcp",service="http"} 1
# HELP porthole_port_arrived_packets_total Packets that arrived at the port.
# TYPE porthole_port_arrived_packets_total counter
porthole_port_arrived_packets_total{port="53/udp",service="dns"} 0
porthole_port_arrived_packets_total{port="80/tcp",service="http"} 10
# HELP porthole_device_in_dropped_packets_total Frames that the kernel lost before the host: its own queue was full.
# TYPE porthole_device_in_dropped_packets_total counter
porthole_device_in_dropped_packets_total 3
# HELP porthole_info The host: always 1.
# TYPE porthole_info gauge
porthole_info{device="ph0",kind="offload",name="a",version="1"} 1
# HELP porthole_start_time_seconds When the host was made, in seconds of the Unix epoch.
# TYPE porthole_start_time_seconds gauge
porthole_start_time_seconds 1.7000000005e+09
# HELP porthole_knocked_ports Ports for which packets came while nobody had them.
# TYPE porthole_knocked_ports gauge
porthole_knocked_ports 4
# HELP porthole_knocks_total Packets that came for ports that nobody had.
# TYPE porthole_knocks_total counter
porthole_knocks_total 9
# HELP porthole_stack_aborts_total Connections that were reset after their service had closed them, by reason: memory (too many, or too much, waited for peers) or timeout (the peer acknowledged nothing more).
# TYPE porthole_stack_aborts_total counter
porthole_stack_aborts_total{reason="memory"} 8
porthole_stack_aborts_total{reason="timeout"} 9
# HELP porthole_stack_dropped_segments_total TCP segments that the stack was handed and dropped, by reason.
# TYPE porthole_stack_dropped_segments_total counter
porthole_stack_dropped_segments_total{reason="dropped"} 5
porthole_stack_dropped_segments_total{reason="invalid"} 6
# HELP porthole_stack_time_wait_overflows_total Connections that left TIME-WAIT early, for there were too many.
# TYPE porthole_stack_time_wait_overflows_total counter
porthole_stack_time_wait_overflows_total 7
# HELP porthole_flows_evicted_total Timelines that made room for newer ones.
# TYPE porthole_flows_evicted_total counter
porthole_flows_evicted_total 2
`), "porthole_flows_evicted_total", "porthole_port_accept_queue_connections", "porthole_port_answering", "porthole_port_arrived_packets_total",
		"porthole_knocked_ports", "porthole_knocks_total", "porthole_stack_aborts_total", "porthole_stack_dropped_segments_total", "porthole_stack_time_wait_overflows_total",
		"porthole_device_in_dropped_packets_total", "porthole_info", "porthole_start_time_seconds"))
	problems, err := testutil.CollectAndLint(Collector(twoPorts()))
	require.NoError(t, err)
	require.Empty(t, problems)
}

// TestImpairmentAndCaptures: what rules and captures did has series of its own, and a
// port or a direction that never had rules has none.
func TestImpairmentAndCaptures(t *testing.T) {
	w := httptest.NewRecorder()
	Handler(twoPorts()).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	for _, line := range []string{
		"captures 1", "captures_started_total 3", "capture_packets_total 20", "capture_missed_packets_total 4", "capture_records_total 16",
		`link_impaired{direction="out"} 0`, `link_impair_waiting_packets{direction="out"} 0`,
		`link_impair_packets_total{direction="out",effect="lost"} 2`, `link_impair_packets_total{direction="out",effect="passed"} 6`,
		`port_impaired{direction="in",port="80/tcp",service="http"} 1`,
		`port_impair_packets_total{direction="in",effect="delayed",port="80/tcp",service="http"} 7`,
		`port_impair_packets_total{direction="in",effect="reordered",port="80/tcp",service="http"} 0`,
		`port_impair_waiting_packets{direction="in",port="80/tcp",service="http"} 3`,
	} {
		require.Contains(t, w.Body.String(), "\nporthole_"+line+"\n")
	}
	require.NotContains(t, w.Body.String(), `link_impaired{direction="in"}`)
	require.NotContains(t, w.Body.String(), `port_impaired{direction="out",port="80/tcp"`)
	require.NotContains(t, w.Body.String(), `port_impaired{direction="in",port="53/udp"`)
}

// TestWaits: the bounds are cumulative, and what is above all of them is in the count.
func TestWaits(t *testing.T) {
	w := httptest.NewRecorder()
	Handler(twoPorts()).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	for _, line := range []string{
		`bucket{port="80/tcp",service="http",le="8.192e-06"} 3`, `bucket{port="80/tcp",service="http",le="3.2768e-05"} 3`,
		`bucket{port="80/tcp",service="http",le="0.000131072"} 4`, `bucket{port="80/tcp",service="http",le="34.359738368"} 4`,
		`bucket{port="80/tcp",service="http",le="+Inf"} 6`, `sum{port="80/tcp",service="http"} 90`,
		`count{port="80/tcp",service="http"} 6`, `count{port="53/udp",service="dns"} 0`,
	} {
		require.Contains(t, w.Body.String(), "\nporthole_port_wait_seconds_"+line+"\n")
	}
}

// TestEveryFateHasASeries: also those that nothing has met, for the first one to count.
func TestEveryFateHasASeries(t *testing.T) {
	require.Equal(t, len(porthole.Fates()), testutil.CollectAndCount(Collector(fakeHost{}), "porthole_packets_total"))
	require.Equal(t, 2*len(porthole.Fates()), testutil.CollectAndCount(Collector(twoPorts()), "porthole_port_packets_total"))
}

func TestCardinalityIsBounded(t *testing.T) {
	var h fakeHost
	for n := range uint16(2 * LimitPorts) {
		h.ports = append(h.ports, porthole.PortStatus{Port: services.TCP(n + 1), Declared: true})
	}
	require.Equal(t, LimitPorts, testutil.CollectAndCount(Collector(h), "porthole_port_answering"))
	require.NoError(t, testutil.CollectAndCompare(Collector(h), strings.NewReader(`
# HELP porthole_unexported_ports Ports of the configuration that have no series of their own, for there are too many.
# TYPE porthole_unexported_ports gauge
porthole_unexported_ports 512
`), "porthole_unexported_ports"))
}

func TestHandler(t *testing.T) {
	w := httptest.NewRecorder()
	Handler(twoPorts()).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	b, err := io.ReadAll(w.Result().Body)
	require.NoError(t, err)
	require.Equal(t, 200, w.Code)
	for _, line := range []string{"\nporthole_law_ok 1\n", "\ngo_goroutines ", "\nprocess_start_time_seconds "} {
		require.Contains(t, string(b), line)
	}
}

// TestDashboard: the dashboard of docs loads, asks only for metrics that there are,
// and leaves the data source to be chosen.
func TestDashboard(t *testing.T) {
	b, err := os.ReadFile("../../../../docs/grafana.json")
	require.NoError(t, err)
	var d struct {
		Title, UID string
		ID         any
		Templating struct {
			List []struct{ Name, Type string }
		}
		Panels []struct {
			ID         int
			Title      string
			Type       string
			Datasource struct{ UID string }
			GridPos    struct{ H, W, X, Y int }
			Targets    []struct{ Expr, RefID string }
		}
	}
	require.NoError(t, json.Unmarshal(b, &d))
	require.Nil(t, d.ID, "an id belongs to one Grafana")
	require.Equal(t, "datasource", d.Templating.List[0].Type)

	known := map[string]bool{}
	r := prometheus.NewRegistry()
	r.MustRegister(Collector(twoPorts()))
	families, err := r.Gather()
	require.NoError(t, err)
	for _, f := range families {
		known[f.GetName()] = true
	}
	name := regexp.MustCompile(`\bporthole_[a-z_]+`)
	asked := map[string]bool{}
	ids := map[int]bool{}
	for _, p := range d.Panels {
		require.False(t, ids[p.ID], "panel %d twice", p.ID)
		ids[p.ID] = true
		require.LessOrEqual(t, p.GridPos.X+p.GridPos.W, 24, p.Title)
		if p.Type == "row" {
			continue
		}
		require.Equal(t, "${datasource}", p.Datasource.UID, p.Title)
		require.NotEmpty(t, p.Targets, p.Title)
		for _, target := range p.Targets {
			for _, m := range name.FindAllString(target.Expr, -1) {
				m = strings.TrimSuffix(m, "_bucket") // of a histogram
				require.True(t, known[m], "%s asks for %s, which there is not", p.Title, m)
				asked[m] = true
			}
		}
	}
	for _, m := range []string{"port_wait_seconds", "port_zero_windows_total", "port_zero_window_seconds_total", "port_impair_packets_total",
		"link_impair_packets_total", "captures", "capture_missed_packets_total", "knocks_total"} {
		require.True(t, asked["porthole_"+m], "no panel has %s", m)
	}
}
