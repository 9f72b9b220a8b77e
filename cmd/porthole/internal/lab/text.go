package lab

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"porthole/cmd/porthole/internal/columns"
)

// WriteText writes a result for a terminal: question, table, what was seen, how to
// repeat it.
func (r *Result) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", r.Experiment, r.Question)
	for _, s := range r.Setup {
		fmt.Fprintf(&b, "  %s\n", s)
	}
	b.WriteString("\n" + r.table() + "\n")
	if r.Partial != "" {
		fmt.Fprintf(&b, "Not whole: %s.\n", r.Partial)
	}
	if r.Saw != "" {
		fmt.Fprintf(&b, "Seen: %s\n", r.Saw)
	}
	for _, c := range r.Checks {
		if !c.OK {
			fmt.Fprintf(&b, "Not kept: %s\n", c.What)
		}
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "Note: %s\n", n)
	}
	fmt.Fprintf(&b, "Repeat: %s\n", r.Repeat.Command)
	_, err := io.WriteString(w, b.String())
	return err
}

// table aligns the rows under their columns; units stand below the names. Numbers are
// aligned to the right.
func (r *Result) table() string {
	names, units := make([]string, len(r.Columns)), make([]string, len(r.Columns))
	unit := false
	for i, c := range r.Columns {
		names[i], units[i] = c.Name, c.Unit
		unit = unit || c.Unit != ""
	}
	rows := [][]string{names}
	if unit {
		rows = append(rows, units)
	}
	right := map[int]bool{}
	for _, row := range r.Rows {
		cells := make([]string, len(row))
		for i, v := range row {
			cells[i] = r.Columns[i].Text(v)
			if _, ok := v.(float64); ok {
				right[i] = true
			}
		}
		rows = append(rows, cells)
	}
	return columns.Text(rows, slices.Collect(maps.Keys(right))...)
}

// Text is a cell as it is shown: "-" for nothing.
func (c *Column) Text(v any) string {
	switch v := v.(type) {
	case nil:
		return "-"
	case float64:
		return strconv.FormatFloat(v, 'f', c.Digits, 64)
	}
	return fmt.Sprint(v)
}
