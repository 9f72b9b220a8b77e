package lab

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"io"

	"porthole/cmd/porthole/internal/plot"
)

//go:embed report.html
var reportHTML string

var report = template.Must(template.New("report").Funcs(template.FuncMap{
	"svg":  svg,
	"cell": func(c Column, v any) string { return c.Text(v) },
	"num":  func(v any) bool { _, ok := v.(float64); return ok },
}).Parse(reportHTML))

// WriteReport writes one page about one or more results. It asks nothing of any other
// address: figures are within it, styles too, and there is no script.
func WriteReport(w io.Writer, rs []Result) error {
	title := "porthole lab"
	if len(rs) == 1 {
		title = rs[0].Experiment + " - porthole lab"
	}
	if err := report.Execute(w, struct {
		Title   string
		Results []Result
	}{title, rs}); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// svg draws a figure. Its texts are escaped by the drawer.
func svg(f Figure) (template.HTML, error) {
	var b bytes.Buffer
	if err := plot.SVG(&b, &f); err != nil {
		return "", err
	}
	return template.HTML(b.String()), nil
}
