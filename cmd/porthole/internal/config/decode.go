// Package config reads and writes the YAML form of porthole.Config. The file's
// keys, their types, their defaults and their comments are the struct's own tags,
// walked by reflection, so that a service's options need no second description.
//
// Reading is strict and complete: every unknown key, double key and value of the
// wrong type is reported with its place, in the file's order, and nothing of a
// file that has one is used. What a file leaves out keeps its default; a list or
// map that it names is replaced whole.
//
// Left out: merge keys (<<) and more than one document.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"porthole"
	"porthole/services"
)

// LimitBytes is the largest file that is read.
const LimitBytes = 1 << 20

// Problem is one thing that is wrong, and where.
type Problem struct {
	File      string
	Line, Col int // from 1; 0 when only the file is known
	Text      string
}

func (p Problem) String() string {
	if p.Line == 0 {
		return p.File + ": " + p.Text
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Col, p.Text)
}

// Problems is everything that is wrong with a file, one line each.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// File is a decoded file: the configuration, and where each of its keys stood.
type File struct {
	Name   string
	Config porthole.Config
	at     map[string]mark   // by path, as services.ConfigError writes it
	flags  map[string]string // by path: the flag that set it after the file was read
}

type mark struct{ line, col int }

// Default is the file that says nothing.
func Default() *File {
	return &File{Config: porthole.DefaultConfig(), at: map[string]mark{}, flags: map[string]string{}}
}

// Decode reads a file over the defaults. Its error is Problems.
func Decode(name string, r io.Reader) (*File, error) {
	f := Default()
	f.Name = name
	data, err := io.ReadAll(io.LimitReader(r, LimitBytes+1))
	switch {
	case err != nil:
		return nil, Problems{{File: name, Text: err.Error()}}
	case len(data) > LimitBytes:
		return nil, Problems{{File: name, Text: fmt.Sprintf("longer than %d bytes", LimitBytes)}}
	}
	if ps := f.decode(data, reflect.ValueOf(&f.Config).Elem()); len(ps) > 0 {
		return nil, ps
	}
	return f, nil
}

// Set gives the key at path ("link.mtu") the value of a flag, over the file's.
// Check names the flag when it is wrong.
func (f *File) Set(path, flag, value string) error {
	v := reflect.ValueOf(&f.Config).Elem()
	for _, key := range strings.Split(path, ".") {
		fs := fields(v)
		i := slices.IndexFunc(fs, func(f field) bool { return f.key == key })
		if i < 0 {
			return fmt.Errorf("%s: no key %q", flag, path) // a mistake of ours; every flag is tested
		}
		v = fs[i].v
	}
	f.flags[path] = flag
	if err := setScalar(v, value); err != nil {
		return fmt.Errorf("%s: %w", flag, err)
	}
	return nil
}

// IsSet reports whether the file or a flag named path.
func (f *File) IsSet(path string) bool {
	_, inFile := f.at[path]
	return inFile || f.flags[path] != ""
}

// Where names what set the value at path: a flag, a place in the file, or the path.
func (f *File) Where(path string) string {
	if flag := f.flags[path]; flag != "" {
		return flag
	}
	if m, ok := f.at[path]; ok {
		return fmt.Sprintf("%s:%d:%d: %s", f.Name, m.line, m.col, path)
	}
	return path
}

// Check validates the configuration and says of what is wrong where it was written.
func (f *File) Check() error {
	err := f.Config.Validate()
	var ce *services.ConfigError
	if !errors.As(err, &ce) {
		return err
	}
	if flag := f.flags[ce.Key]; flag != "" {
		return fmt.Errorf("%s: %w", flag, ce.Err)
	}
	for path := ce.Key; path != ""; path = parent(path) {
		if m, ok := f.at[path]; ok {
			return Problems{{File: f.Name, Line: m.line, Col: m.col, Text: ce.Error()}}
		}
	}
	return ce
}

// Locate gives the *services.ConfigErrors that err joins the places where they were
// written. Another error, or one of a configuration without a file, it gives back.
func (f *File) Locate(err error) error {
	if f.Name == "" || err == nil {
		return err
	}
	var ps Problems
	var walk func(error)
	walk = func(e error) {
		switch x := e.(type) {
		case interface{ Unwrap() []error }:
			for _, e := range x.Unwrap() {
				walk(e)
			}
		case *services.ConfigError:
			ps = append(ps, f.problem(x))
		case interface{ Unwrap() error }:
			walk(x.Unwrap())
		}
	}
	walk(err)
	if len(ps) == 0 {
		return err
	}
	return ps
}

func (f *File) problem(ce *services.ConfigError) Problem {
	if flag := f.flags[ce.Key]; flag != "" {
		return Problem{File: flag, Text: ce.Err.Error()}
	}
	for path := ce.Key; path != ""; path = parent(path) {
		if m, ok := f.at[path]; ok {
			return Problem{File: f.Name, Line: m.line, Col: m.col, Text: ce.Error()}
		}
	}
	return Problem{File: f.Name, Text: ce.Error()}
}

// parent cuts the last step off a path: a.b[1] gives a.b, a.b gives a, a gives "".
func parent(path string) string {
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
}

// decode parses one document and walks it into v.
func (f *File) decode(data []byte, v reflect.Value) Problems {
	loader, err := yaml.NewLoader(bytes.NewReader(data))
	if err != nil {
		return Problems{{File: f.Name, Text: err.Error()}}
	}
	var doc, second yaml.Node
	switch err := loader.Load(&doc); {
	case errors.Is(err, io.EOF):
		return nil // an empty file says nothing
	case err != nil:
		return Problems{f.syntax(err)}
	}
	d := decoder{f: f}
	if err := loader.Load(&second); err == nil {
		d.add(&second, "a second document; one file holds one")
	} else if !errors.Is(err, io.EOF) {
		return Problems{f.syntax(err)}
	}
	for _, n := range doc.Content {
		d.value(n, v, "")
	}
	slices.SortStableFunc(d.found, func(a, b Problem) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Col - b.Col
	})
	return d.found
}

// syntax turns the parser's error into one of ours.
func (f *File) syntax(err error) Problem {
	var le *yaml.LoadError
	if !errors.As(err, &le) {
		return Problem{File: f.Name, Text: strings.TrimPrefix(err.Error(), "yaml: ")}
	}
	p := Problem{File: f.Name, Text: "no YAML: " + le.Message}
	if le.Mark.Line > 0 {
		p.Line, p.Col = le.Mark.Line, max(le.Mark.Column, 1)
	}
	return p
}
