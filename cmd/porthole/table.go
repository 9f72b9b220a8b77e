package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"porthole"
	"porthole/cmd/porthole/internal/columns"
)

// portTable writes the ports with their queues, a line each.
func portTable(w io.Writer, ports []porthole.PortStatus) error {
	rows := [][]string{{"PORT", "SERVICE", "STATE", "PROBE", "ARRIVED", "QUEUE", "PEAK", "SYN", "PEAK", "ACCEPT", "PEAK", "LOST"}}
	set := slices.ContainsFunc(ports, func(p porthole.PortStatus) bool { return p.Changed != "" })
	data := slices.ContainsFunc(ports, func(p porthole.PortStatus) bool { return p.ReceiveQueue > 0 || p.ZeroWindows > 0 })
	if data {
		rows[0] = append(rows[0], "RECEIVED", "WINDOW", "CLOSED")
	}
	if set {
		rows[0] = append(rows[0], "SET")
	}
	for i := range ports {
		p := &ports[i]
		row := []string{
			p.Port.String(), p.Service, p.State, took(p), fmt.Sprint(p.Arrived),
			fmt.Sprintf("%d/%d", p.Queued, p.LimitPackets), fmt.Sprint(p.HighWater),
		}
		if listens(p) {
			row = append(row, fmt.Sprintf("%d/%d", p.Syn, p.SynLimit), fmt.Sprint(p.SynHigh),
				fmt.Sprintf("%d/%d", p.Accept, p.AcceptLimit), fmt.Sprint(p.AcceptHigh))
		} else {
			row = append(row, "-", "-", "-", "-")
		}
		row = append(row, lost(p))
		if data {
			row = append(row, received(p)...)
		}
		if set {
			row = append(row, p.Changed)
		}
		rows = append(rows, row)
	}
	_, err := io.WriteString(w, columns.Text(rows, 4, 5, 6, 7, 8, 9, 10))
	return err
}

// received is the fullest receive buffer of a port's connections, the smallest window
// offered last, and how often and long windows were closed.
func received(p *porthole.PortStatus) []string {
	row := []string{"-", "-", "-"}
	if p.Connections > 0 {
		row[0] = roughly(p.ReceiveFullest) + "/" + roughly(p.ReceiveBuffer)
		row[1] = roughly(p.Window)
	}
	if p.ZeroWindows > 0 {
		row[2] = fmt.Sprintf("%dx %v", p.ZeroWindows, p.ZeroWindowFor.Round(time.Millisecond))
	}
	return row
}

// roughly is a number of bytes with its unit: 512B, 31.9KiB, 64KiB.
func roughly(n int) string {
	v, unit := float64(n), "B"
	for _, u := range []string{"KiB", "MiB", "GiB"} {
		if v < 1024 {
			break
		}
		v, unit = v/1024, u
	}
	return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 1, 64), ".0") + unit
}

// listens reports whether the port has a SYN queue and an accept queue.
func listens(p *porthole.PortStatus) bool {
	return p.Port.Proto == "tcp" && p.State != "connected" && p.State != "closing"
}

// listed leaves out the ports of single connections, such as the probes' own: they
// come and go.
func listed(ports []porthole.PortStatus) []porthole.PortStatus {
	return slices.DeleteFunc(slices.Clone(ports), func(p porthole.PortStatus) bool {
		return p.State == "connected" || p.State == "closing"
	})
}

// probeLine is one port as `up` and `demo` list it: "53/udp dns answering 0.4 ms".
func probeLine(p *porthole.PortStatus) []string {
	line := []string{p.Port.String(), p.Service, p.State}
	if t := took(p); t != "-" {
		line = append(line, t)
	}
	if p.Error != "" {
		line[2] += ": " + oneLine(p.Error)
	}
	return line
}

func took(p *porthole.PortStatus) string {
	if p.Took == 0 {
		return "-"
	}
	return milliseconds(p.Took)
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

// lost names the packets of a port that were dropped, or its error.
func lost(p *porthole.PortStatus) string {
	var words []string
	for _, f := range porthole.Fates() {
		if n := p.Fates[f.Name]; n > 0 && f.Lost {
			words = append(words, fmt.Sprintf("%d %s", n, f.Name))
		}
	}
	if p.Error != "" {
		words = append(words, oneLine(p.Error))
	}
	if len(words) == 0 {
		return "0"
	}
	return strings.Join(words, ", ")
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
