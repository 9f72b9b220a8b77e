package main

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

//go:embed performance.md.tmpl
var docText string

// measured is all that the page is written from.
type measured struct {
	Bench  *report
	Curves *curves
	Ports  []point
}

// writeDoc writes performance.md and its pictures from the JSON of a run.
func writeDoc(from, to string) error {
	m, err := readMeasured(from)
	if err != nil {
		return err
	}
	files, err := m.files()
	if err != nil {
		return err
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(to, name), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func readMeasured(dir string) (*measured, error) {
	m := &measured{}
	for name, into := range map[string]any{"bench.json": &m.Bench, "curves.json": &m.Curves} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(b, into); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "demux.txt"))
	if err != nil {
		return nil, err
	}
	if m.Ports = portCost(b); len(m.Ports) == 0 {
		return nil, fmt.Errorf("demux.txt: no line of BenchmarkPath")
	}
	return m, nil
}

// files are the page and its pictures, by name.
func (m *measured) files() (map[string][]byte, error) {
	t, err := template.New("").Funcs(template.FuncMap{"number": number}).Parse(docText)
	if err != nil {
		return nil, err
	}
	var page bytes.Buffer
	if err := t.Execute(&page, m); err != nil {
		return nil, err
	}
	conns := axis{label: "HTTP connections kept alive", log: true, from: 1}
	mem := append(named(m.Curves.ConnMemory, "", " server"), m.Curves.QueueMemory...)
	for i := range mem[len(m.Curves.ConnMemory):] {
		mem[len(m.Curves.ConnMemory)+i].Line = "queued packets"
	}
	return map[string][]byte{
		"performance.md": page.Bytes(),
		"performance-ports.svg": plotSVG("A packet's whole way through the port table, ns (best windows)",
			axis{label: "bound ports, hit at random", log: true, from: 1}, axis{label: "ns a packet"}, m.Ports),
		"performance-connections.svg": plotSVG("HTTP requests a second, 128-byte body", conns, axis{label: "requests/s"}, m.Curves.ConnRate),
		"performance-memory.svg": plotSVG("Resident memory of the server, MiB",
			axis{label: "idle HTTP connections, or datagrams in one queue"}, axis{label: "MiB"}, mem),
	}, nil
}

func named(ps []point, before, after string) []point {
	out := make([]point, len(ps))
	for i, p := range ps {
		p.Line = before + p.Line + after
		out[i] = p
	}
	return out
}

// Of the template.

// Tables are the three of the report, as Markdown.
func (m *measured) Beside() string { return m.Bench.markdown(kernelRows) }

// Servers are the works that servers in C do too.
func (m *measured) Servers() string { return m.Bench.markdown(serverRows) }

// Figures stand for themselves.
func (m *measured) Figures() string { return m.Bench.markdown(figureRows) }

// Noise says how quiet the machine was.
func (m *measured) Noise() string {
	n := m.Bench.disturbed()
	if n == 0 {
		return "The machine was quiet before every measurement."
	}
	return fmt.Sprintf("Before %d of %d measurements others used more than %.0f %% of the machine: differences under a quarter are noise, and absolute figures are far below what it can do.",
		n, len(m.Bench.Busy), quietShare*100)
}

// PortRows is the port table's cost by bound ports.
func (m *measured) PortRows() string {
	var b strings.Builder
	b.WriteString("| bound ports | size | ns a packet |\n|---|---|---|\n")
	for _, p := range m.Ports {
		fmt.Fprintf(&b, "| %.0f | %s | %.0f |\n", p.X, p.Line, p.Y)
	}
	return b.String()
}

// Growth is one table of a curve.
func (m *measured) growth(x string, ps []point) string {
	rows := map[float64]map[string]float64{}
	var xs []float64
	var names []string
	for _, p := range ps {
		if rows[p.X] == nil {
			rows[p.X] = map[string]float64{}
			xs = append(xs, p.X)
		}
		if !strings.Contains(strings.Join(names, "\n"), p.Line) {
			names = append(names, p.Line)
		}
		rows[p.X][p.Line] = p.Y
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| %s | %s |\n|---%s|\n", x, strings.Join(names, " | "), strings.Repeat("|---", len(names)))
	for _, v := range xs {
		fmt.Fprintf(&b, "| %.0f |", v)
		for _, n := range names {
			fmt.Fprintf(&b, " %s |", number(rows[v][n]))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// ConnRows, MemoryRows and QueueRows are the curves as tables.
func (m *measured) ConnRows() string { return m.growth("connections", m.Curves.ConnRate) }

// MemoryRows is memory by connections.
func (m *measured) MemoryRows() string {
	return m.growth("idle connections", named(m.Curves.ConnMemory, "", ", MiB"))
}

// QueueRows is memory by queued packets.
func (m *measured) QueueRows() string {
	return m.growth("queued datagrams", named(m.Curves.QueueMemory, "", ", MiB"))
}

// The kinds of rows of a report.
const (
	kernelRows = iota
	serverRows
	figureRows
)

func (res *result) kind() int {
	switch {
	case res.Figure:
		return figureRows
	case res.Beside != "":
		return serverRows
	}
	return kernelRows
}

func (r *report) markdown(kind int) string {
	var b strings.Builder
	b.WriteString([]string{
		"| work | offload to veth | water to veth | offload to water | asked for |\n|---|---|---|---|---|\n",
		"| work | beside | offload to it | asked for |\n|---|---|---|---|\n",
		"| figure | veth | offload | water | asked for |\n|---|---|---|---|---|\n",
	}[kind])
	cell := func(s spread, ok bool) string {
		if !ok {
			return ""
		}
		return fmt.Sprintf("**%s** (%s to %s)", number(s.Median), number(s.Min), number(s.Max))
	}
	for _, res := range r.Works {
		if res.kind() != kind || len(res.Samples) == 0 {
			continue
		}
		about := res.Name + ": " + res.About
		switch kind {
		case kernelRows:
			row := "| " + about
			for _, p := range pairs {
				row += " | " + cell(res.ratio(p[0], p[1]))
			}
			fmt.Fprintf(&b, "%s | %s |\n", row, res.reach())
		case serverRows:
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", about, res.Beside, cell(res.ratio("offload", res.Beside)), res.reach())
		case figureRows:
			row := "| " + about + ", " + res.Unit
			for _, t := range targetNames {
				row += " | " + cell(res.values(t), len(res.Samples[t]) > 0)
			}
			fmt.Fprintf(&b, "%s | %s |\n", row, res.reach())
		}
	}
	return b.String()
}
