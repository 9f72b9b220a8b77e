// Package metrics shows a running host to Prometheus. Nothing is counted here: each
// scrape reads one snapshot of what the host counts anyway.
//
// Cardinality is bounded: a series per port and fate for the ports that the
// configuration or `porthole open` named, the first LimitPorts of them. Ports that
// services and connections take for a moment are in the host's totals alone.
package metrics

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"porthole"
)

// LimitPorts is the most ports that have series of their own.
const LimitPorts = 512

// Host is what a scrape reads.
type Host interface {
	Ports() []porthole.PortStatus
	Health() porthole.Health
	Ledger() porthole.Ledger
	FlowStats() porthole.FlowStats
	CaptureTotals() porthole.CaptureTotals
}

// Handler answers a scrape of h, and of the Go runtime that it runs in.
func Handler(h Host) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(Collector(h), collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// Collector gives the metrics of h.
func Collector(h Host) prometheus.Collector { return collector{h} }

type collector struct{ h Host }

// metric is one name with its labels.
type metric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

var all []*prometheus.Desc

func define(kind prometheus.ValueType, name, help string, labels ...string) metric {
	d := prometheus.NewDesc("porthole_"+name, help, labels, nil)
	all = append(all, d)
	return metric{d, kind}
}

func counter(name, help string, labels ...string) metric {
	return define(prometheus.CounterValue, name, help, labels...)
}

func gauge(name, help string, labels ...string) metric {
	return define(prometheus.GaugeValue, name, help, labels...)
}

var (
	info    = gauge("info", "The host: always 1.", "name", "version", "device", "kind")
	started = gauge("start_time_seconds", "When the host was made, in seconds of the Unix epoch.")
	ready   = gauge("ready", "1 once every service has been probed.")
	arrived = counter("arrived_packets_total", "Packets that arrived, by how they came.", "kind")
	fates   = counter("packets_total", "Packets of the whole host, by what became of them.", "fate")
	queued  = gauge("queued_packets", "Packets of the whole host that have no fate yet.")
	law     = gauge("law_ok", "1 while arrived = sum of fates + queued.")
	bound   = gauge("bound_ports", "Ports that somebody has, those of single connections included.")
	hidden  = gauge("unexported_ports", "Ports of the configuration that have no series of their own, for there are too many.")

	portAnswering = gauge("port_answering", "1 when the port's self-test was answered and its service runs.", "port", "service")
	portArrived   = counter("port_arrived_packets_total", "Packets that arrived at the port.", "port", "service")
	portFates     = counter("port_packets_total", "Packets of the port, by what became of them.", "port", "service", "fate")
	portQueue     = gauge("port_queue_packets", "Packets in the port's queue, those that a worker holds included.", "port", "service")
	portBytes     = gauge("port_queue_bytes", "Charge of the packets in the port's queue.", "port", "service")
	portLimit     = gauge("port_queue_limit_packets", "Packets that the port's queue holds.", "port", "service")
	portLimitB    = gauge("port_queue_limit_bytes", "Charge that the port's queue holds.", "port", "service")
	portHigh      = gauge("port_queue_high_packets", "Most packets in the port's queue at once.", "port", "service")
	synQueue      = gauge("port_syn_queue_connections", "Half-open connections of the port.", "port", "service")
	synLimit      = gauge("port_syn_queue_limit_connections", "Half-open connections that the port holds; one more may be.", "port", "service")
	synHigh       = gauge("port_syn_queue_high_connections", "Most half-open connections at once.", "port", "service")
	acceptQueue   = gauge("port_accept_queue_connections", "Established connections that the service has not taken.", "port", "service")
	acceptLimit   = gauge("port_accept_queue_limit_connections", "Connections that the accept queue holds; one more may be.", "port", "service")
	acceptHigh    = gauge("port_accept_queue_high_connections", "Most connections in the accept queue at once.", "port", "service")
	connections   = gauge("port_connections", "Open connections of the port, those that wait included.", "port", "service")
	receiveQueue  = gauge("port_receive_queue_bytes", "Bytes that the port's connections have received and the service has not read.", "port", "service")
	zeroWindows   = counter("port_zero_windows_total", "Times that the host closed its window to a client of the port.", "port", "service")
	zeroNow       = gauge("port_zero_windows", "Connections of the port whose window is closed.", "port", "service")
	zeroFor       = counter("port_zero_window_seconds_total", "Time that windows were closed, of all connections of the port.", "port", "service")
	waits         = define(prometheus.UntypedValue, "port_wait_seconds", "Time that a datagram was in the port's queue, or a connection in its accept queue, until the service took it.", "port", "service")

	knocks     = counter("knocks_total", "Packets that came for ports that nobody had.")
	knockPorts = gauge("knocked_ports", "Ports for which packets came while nobody had them.")

	stackDropped  = counter("stack_dropped_segments_total", "TCP segments that the stack was handed and dropped, by reason.", "reason")
	stackTimeWait = counter("stack_time_wait_overflows_total", "Connections that left TIME-WAIT early, for there were too many.")
	stackAborts   = counter("stack_aborts_total", "Connections that were reset after their service had closed them, by reason: memory (too many, or too much, waited for peers) or timeout (the peer acknowledged nothing more).", "reason")

	flowsKept       = gauge("flows", "Conversations whose timelines are kept.")
	flowsLimit      = gauge("flows_limit", "Conversations that can be kept.")
	flowsSeen       = counter("flows_seen_total", "Conversations that began.")
	flowsEvicted    = counter("flows_evicted_total", "Timelines that made room for newer ones.")
	flowsSkipped    = counter("flows_skipped_total", "Refused packets that are in no timeline, so that a flood does not take all of them.")
	flowsUnrecorded = counter("flows_unrecorded_total", "Arrivals and departures at ports for which no recorder was free.")

	logLines = counter("log_lines_total", "Lines of the log that were written.")
	logLost  = counter("log_lost_lines_total", "Lines of the log that found its queue full, or were refused.")

	captures        = gauge("captures", "Captures that record.")
	capturesStarted = counter("captures_started_total", "Captures that began.")
	captureAccepted = counter("capture_packets_total", "Packets that a capture wanted, each counted by every capture that did.")
	captureMissed   = counter("capture_missed_packets_total", "Of those, packets that found the capture's buffer full: they are not in its file.")
	captureWritten  = counter("capture_records_total", "Records written; a super-packet is several.")

	linkImpaired = gauge("link_impaired", "1 while rules impair the whole link, by direction.", "direction")
	linkEffects  = counter("link_impair_packets_total", "Packets of the whole link under rules, by what the rules did: one may be delayed and passed.", "direction", "effect")
	linkWaiting  = gauge("link_impair_waiting_packets", "Packets that wait in the rules of the link.", "direction")
	portImpaired = gauge("port_impaired", "1 while rules impair the port, by direction.", "port", "service", "direction")
	portEffects  = counter("port_impair_packets_total", "Packets of the port under rules, by what the rules did: one may be delayed and passed.", "port", "service", "direction", "effect")
	portWaiting  = gauge("port_impair_waiting_packets", "Packets that wait in the rules of the port.", "port", "service", "direction")

	outSent = counter("out_frames_total", "Frames that the host sent; a super-packet counts once.")
	outLost = counter("out_lost_frames_total", "Frames of the host that never left: its device was full, or refused them, or was closed, or a rate limit held.", "reason")

	deviceInPackets  = counter("device_in_packets_total", "Frames that the kernel handed to the host.")
	deviceInBytes    = counter("device_in_bytes_total", "Bytes of those.")
	deviceInDropped  = counter("device_in_dropped_packets_total", "Frames that the kernel lost before the host: its own queue was full.")
	deviceInErrors   = counter("device_in_errors_total", "Frames towards the host that the kernel refused.")
	deviceOutPackets = counter("device_out_packets_total", "Frames that the kernel took from the host.")
	deviceOutBytes   = counter("device_out_bytes_total", "Bytes of those.")
	deviceOutDropped = counter("device_out_dropped_packets_total", "Frames of the host that the kernel took and lost.")
	deviceOutErrors  = counter("device_out_errors_total", "Frames of the host that the kernel refused.")
)

// Describe implements prometheus.Collector.
func (collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range all {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	put := func(m metric, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, v, labels...)
	}
	h, l, ports := c.h.Health(), c.h.Ledger(), c.h.Ports()
	put(info, 1, h.Name, h.Version, h.Device, h.Kind)
	put(started, float64(h.Started.UnixMilli())/1000)
	put(ready, truth(h.Ready))
	for kind, n := range l.Kinds {
		put(arrived, float64(n), kind)
	}
	for _, f := range porthole.Fates() { // zeros too: a rate needs the first one
		put(fates, float64(l.Fates[f.Name]), f.Name)
	}
	put(queued, float64(l.Queued))
	put(law, truth(l.LawOK))
	put(logLines, float64(h.LogLines))
	put(logLost, float64(h.LogLost))
	put(bound, float64(len(ports)))
	shown, left := 0, 0
	for i := range ports {
		switch {
		case !ports[i].Declared:
		case shown == LimitPorts:
			left++
		default:
			shown++
			port(put, &ports[i])
			ch <- waited(&ports[i])
		}
	}
	put(hidden, float64(left))
	f := c.h.FlowStats()
	put(flowsKept, float64(f.Flows))
	put(flowsLimit, float64(f.Limit))
	put(flowsSeen, float64(f.Seen))
	put(flowsEvicted, float64(f.Evicted))
	put(flowsSkipped, float64(f.Skipped))
	put(flowsUnrecorded, float64(f.Unrecorded))
	if k := l.Knocks; k != nil {
		put(knocks, float64(k.Packets))
		put(knockPorts, float64(k.Ports))
	}
	if s := l.Stack; s != nil {
		put(stackDropped, float64(s.Dropped), "dropped")
		put(stackDropped, float64(s.Invalid), "invalid")
		put(stackTimeWait, float64(s.TimeWaitOverflow))
		put(stackAborts, float64(s.AbortOnMemory), "memory")
		put(stackAborts, float64(s.AbortOnTimeout), "timeout")
	}
	t := c.h.CaptureTotals()
	put(captures, float64(t.Running))
	put(capturesStarted, float64(t.Started))
	put(captureAccepted, float64(t.Accepted))
	put(captureMissed, float64(t.Missed))
	put(captureWritten, float64(t.Written))
	if l.Link != nil {
		impairment(put, linkImpaired, linkEffects, linkWaiting, l.Link.In, "in")
		impairment(put, linkImpaired, linkEffects, linkWaiting, l.Link.Out, "out")
	}
	if o := l.Out; o != nil {
		put(outSent, float64(o.Sent))
		put(outLost, float64(o.DeviceFull), "device-full")
		put(outLost, float64(o.Limited), "limited")
		put(outLost, float64(o.Refused), "refused")
		put(outLost, float64(o.Closed), "closed")
	}
	if d := l.Device; d != nil {
		put(deviceInPackets, float64(d.InPackets))
		put(deviceInBytes, float64(d.InBytes))
		put(deviceInDropped, float64(d.InDropped))
		put(deviceInErrors, float64(d.InErrors))
		put(deviceOutPackets, float64(d.OutPackets))
		put(deviceOutBytes, float64(d.OutBytes))
		put(deviceOutDropped, float64(d.OutDropped))
		put(deviceOutErrors, float64(d.OutErrors))
	}
}

func port(put func(metric, float64, ...string), p *porthole.PortStatus) {
	name := []string{p.Port.String(), p.Service}
	one := func(m metric, v float64) { put(m, v, name...) }
	one(portAnswering, truth(p.State == "answering"))
	one(portArrived, float64(p.Arrived))
	for _, f := range porthole.Fates() {
		put(portFates, float64(p.Fates[f.Name]), name[0], name[1], f.Name)
	}
	one(portQueue, float64(p.Queued))
	one(portBytes, float64(p.QueuedBytes))
	one(portLimit, float64(p.LimitPackets))
	one(portLimitB, float64(p.LimitBytes))
	one(portHigh, float64(p.HighWater))
	impairment(put, portImpaired, portEffects, portWaiting, p.ImpairIn, name[0], name[1], "in")
	impairment(put, portImpaired, portEffects, portWaiting, p.ImpairOut, name[0], name[1], "out")
	if p.Port.Proto != "tcp" {
		return
	}
	one(synQueue, float64(p.Syn))
	one(synLimit, float64(p.SynLimit))
	one(synHigh, float64(p.SynHigh))
	one(acceptQueue, float64(p.Accept))
	one(acceptLimit, float64(p.AcceptLimit))
	one(acceptHigh, float64(p.AcceptHigh))
	one(connections, float64(p.Connections))
	one(receiveQueue, float64(p.ReceiveQueue))
	one(zeroWindows, float64(p.ZeroWindows))
	one(zeroNow, float64(p.ZeroWindowsNow))
	one(zeroFor, p.ZeroWindowFor.Seconds())
}

// impairment is what rules did in one direction; without any there are no series.
func impairment(put func(metric, float64, ...string), on, effects, waiting metric, i *porthole.Impairment, labels ...string) {
	if i == nil {
		return
	}
	put(on, truth(i.Rules != "none"), labels...)
	put(waiting, float64(i.Waiting), labels...)
	for _, e := range []struct {
		name string
		n    uint64
	}{
		{"arrived", i.Arrived}, {"passed", i.Passed}, {"lost", i.Lost}, {"syn-dropped", i.SYNDropped}, {"over-limit", i.OverLimit},
		{"aged", i.Aged}, {"corrupted", i.Corrupted}, {"duplicated", i.Duplicated}, {"delayed", i.Delayed}, {"reordered", i.Reordered},
		{"queued", i.Queued}, {"refused", i.Refused},
	} {
		put(effects, float64(e.n), append(labels[:len(labels):len(labels)], e.name)...)
	}
}

// waited is the histogram of a port's wait times.
func waited(p *porthole.PortStatus) prometheus.Metric {
	below, n := map[float64]uint64{}, uint64(0)
	for i, bound := range porthole.WaitBounds() {
		n += p.WaitCounts[i]
		below[bound.Seconds()] = n
	}
	n += p.WaitCounts[len(p.WaitCounts)-1] // of no bound
	return prometheus.MustNewConstHistogram(waits.desc, n, p.WaitSum.Seconds(), below, p.Port.String(), p.Service)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
