package lab

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

// Names of the files of a report.
const (
	reportFile = "report.html"
	csvFile    = "data.csv"
	jsonFile   = "data.json"
)

// WriteFiles writes one result into dir: report.html, data.csv, data.json.
func (r *Result) WriteFiles(dir string) error {
	return errors.Join(
		writeFile(filepath.Join(dir, csvFile), r.WriteCSV),
		writeFile(filepath.Join(dir, jsonFile), r.writeJSON),
		writeFile(filepath.Join(dir, reportFile), func(w io.Writer) error { return WriteReport(w, []Result{*r}) }),
	)
}

// WriteCSV writes the table, its first line the columns with their units. Numbers are
// written in full, without exponents.
func (r *Result) WriteCSV(w io.Writer) error {
	c := csv.NewWriter(w)
	var head []string
	for _, col := range r.Columns {
		if col.Unit != "" {
			head = append(head, fmt.Sprintf("%s (%s)", col.Name, col.Unit))
		} else {
			head = append(head, col.Name)
		}
	}
	_ = c.Write(head) // Error tells
	for _, row := range r.Rows {
		line := make([]string, len(row))
		for i, v := range row {
			switch v := v.(type) {
			case nil:
			case float64:
				line[i] = strconv.FormatFloat(v, 'f', -1, 64)
			default:
				line[i] = fmt.Sprint(v)
			}
		}
		_ = c.Write(line)
	}
	c.Flush()
	return c.Error()
}

func (r *Result) writeJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	return e.Encode(r)
}

// writeFile makes a file whole or not at all.
func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	err = errors.Join(write(f), f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}
