package control

import (
	"bytes"
	"encoding"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v4"

	"porthole"
)

// The OpenAPI document is held against the handlers: every path, method and field
// of one is in the other, with its type.

type object = map[string]any

func document(t *testing.T) object {
	t.Helper()
	b, err := os.ReadFile("../../../../docs/api.yaml")
	require.NoError(t, err)
	var doc object
	require.NoError(t, yaml.Unmarshal(b, &doc))
	require.Equal(t, "3.1.0", doc["openapi"])
	return doc
}

// at follows keys, and $ref wherever one stands.
func at(t *testing.T, doc, o object, keys ...string) object {
	t.Helper()
	for _, k := range append([]string{""}, keys...) {
		if k != "" {
			next, ok := o[k].(object)
			require.True(t, ok, "no %q among %v", k, names(o))
			o = next
		}
		if ref, ok := o["$ref"].(string); ok {
			path, ok := strings.CutPrefix(ref, "#/")
			require.True(t, ok, ref)
			o = at(t, doc, doc, strings.Split(path, "/")...)
		}
	}
	return o
}

func names(o object) []string {
	var ks []string
	for k := range o {
		ks = append(ks, k)
	}
	sort.Strings(ks)
	return ks
}

var methods = []string{"get", "put", "post", "patch", "delete", "head", "options"}

func TestDocumentHasEveryRoute(t *testing.T) {
	doc := document(t)
	var served, written []string
	for _, r := range (&API{}).Routes() {
		served = append(served, r.Method+" "+r.Path)
	}
	ids := map[string]bool{}
	for path, item := range doc["paths"].(object) {
		params := map[string]bool{}
		if list, ok := item.(object)["parameters"].([]any); ok {
			for _, p := range list {
				params[fmt.Sprint(at(t, doc, p.(object))["name"])] = true
			}
		}
		for name := range params {
			require.Contains(t, path, "{"+name+"}")
		}
		require.Len(t, params, strings.Count(path, "{"), path)
		for m, op := range item.(object) {
			if !slices.Contains(methods, m) {
				require.Equal(t, "parameters", m)
				continue
			}
			written = append(written, strings.ToUpper(m)+" "+path)
			id := fmt.Sprint(op.(object)["operationId"])
			require.False(t, ids[id], "operationId %s twice", id)
			ids[id] = true
			require.NotEmpty(t, op.(object)["summary"], id)
			require.Contains(t, op.(object)["responses"], "default", id)
		}
	}
	sort.Strings(served)
	sort.Strings(written)
	require.Equal(t, served, written)
}

// TestDocumentHasEveryField: the structures that are sent have exactly the
// document's properties, required where they are always there.
func TestDocumentHasEveryField(t *testing.T) {
	doc := document(t)
	for name, v := range map[string]any{
		"Health": porthole.Health{}, "Port": porthole.PortStatus{}, "Settings": porthole.Settings{},
		"Ledger": porthole.Ledger{}, "Device": porthole.DeviceCounters{}, "Event": porthole.Event{},
		"EventPage": EventPage{}, "CaptureOptions": porthole.CaptureOptions{}, "Capture": porthole.CaptureStatus{}, "Link": porthole.LinkStatus{}, "LinkChange": LinkChange{}, "Impairment": porthole.Impairment{}, "Opening": Opening{}, "Changes": Changes{}, "Failure": Failure{},
	} {
		t.Run(name, func(t *testing.T) {
			schema := at(t, doc, doc, "components", "schemas", name)
			props := schema["properties"].(object)
			var fields, always []string
			typ := reflect.TypeOf(v)
			for i := range typ.NumField() {
				f := typ.Field(i)
				key, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
				require.NotEmpty(t, key, "%s.%s has no JSON name", name, f.Name)
				fields = append(fields, key)
				if !strings.Contains(opts, "omitempty") {
					always = append(always, key)
				}
				prop, ok := props[key].(object)
				require.True(t, ok, "%s.%s is not in the document", name, key)
				require.Equal(t, kindOf(f.Type), at(t, doc, prop)["type"], "type of %s.%s", name, key)
			}
			sort.Strings(fields)
			require.Equal(t, fields, names(props))
			var required []string
			if list, ok := schema["required"].([]any); ok {
				for _, r := range list {
					required = append(required, r.(string))
				}
			}
			require.ElementsMatch(t, always, required, "required")
		})
	}
}

// kindOf is the JSON type of a Go type.
func kindOf(t reflect.Type) string {
	if t == reflect.TypeFor[time.Duration]() {
		return "integer"
	}
	if t == reflect.TypeFor[porthole.Settings]() {
		return "object" // it has both forms; JSON is this one
	}
	text := reflect.TypeFor[encoding.TextMarshaler]()
	switch {
	case t.Implements(text):
		return "string"
	case t.Kind() == reflect.Pointer:
		return kindOf(t.Elem())
	case t.Kind() == reflect.Bool:
		return "boolean"
	case t.Kind() == reflect.String:
		return "string"
	case t.Kind() == reflect.Slice || t.Kind() == reflect.Array:
		return "array"
	case t.Kind() == reflect.Map, t.Kind() == reflect.Struct:
		return "object"
	}
	return "integer"
}

// TestAnswersAreAsDocumented calls every route and looks at the type and, for
// JSON, the keys of what comes back.
func TestAnswersAreAsDocumented(t *testing.T) {
	doc := document(t)
	h := new(fakeHost).api()
	h.More = nil
	for _, r := range h.Routes() {
		t.Run(r.Method+" "+r.Path, func(t *testing.T) {
			op := at(t, doc, doc, "paths", r.Path, strings.ToLower(r.Method))
			path := strings.NewReplacer("{number}", "80", "{proto}", "tcp", "{id}", "f1").Replace(r.Path)
			in := bytes.NewReader(nil)
			if b, ok := op["requestBody"].(object); ok && b["required"] == true {
				in = bytes.NewReader([]byte(map[string]string{"set": `{"queue":64}`, "setLink": `{"set":"rate=10mbit"}`, "open": `{"service":"http"}`, "startCapture": `{"ports":["80/tcp"]}`}[op["operationId"].(string)]))
			}
			req := httptest.NewRequestWithContext(t.Context(), r.Method, path, in)
			req.Header.Set("Content-Type", "application/json")
			w := httptest.NewRecorder()
			h.handler().ServeHTTP(w, req)
			resp := at(t, doc, op, "responses", fmt.Sprint(w.Code))
			content, ok := resp["content"].(object)
			if !ok {
				require.Equal(t, http.StatusNoContent, w.Code)
				require.Zero(t, w.Body.Len())
				return
			}
			typ, _, _ := strings.Cut(w.Header().Get("Content-Type"), ";")
			if op["operationId"] == "metrics" {
				typ = "text/plain" // the fake sets none
			}
			require.Contains(t, content, typ)
			if typ != "application/json" {
				return
			}
			schema := at(t, doc, content, typ, "schema")
			var got any
			require.NoError(t, yaml.Unmarshal(w.Body.Bytes(), &got)) // JSON is YAML
			conforms(t, doc, schema, got, r.Path)
		})
	}
}

// conforms checks a value against the part of JSON Schema that the document uses.
func conforms(t *testing.T, doc, schema object, v any, where string) {
	t.Helper()
	schema = at(t, doc, schema)
	switch schema["type"] {
	case "object":
		o, ok := v.(object)
		require.True(t, ok, "%s: %T is no object", where, v)
		if list, ok := schema["required"].([]any); ok {
			for _, r := range list {
				require.Contains(t, o, r, where)
			}
		}
		props, _ := schema["properties"].(object)
		for k, e := range o {
			if p, ok := props[k].(object); ok {
				conforms(t, doc, p, e, where+"."+k)
				continue
			}
			more, ok := schema["additionalProperties"].(object)
			require.True(t, ok, "%s.%s is not in the document", where, k)
			conforms(t, doc, more, e, where+"."+k)
		}
	case "array":
		list, ok := v.([]any)
		require.True(t, ok, "%s: %T is no array", where, v)
		for _, e := range list {
			conforms(t, doc, schema["items"].(object), e, where+"[]")
		}
	case "string":
		_, isTime := v.(time.Time) // YAML reads a date as one
		_, isString := v.(string)
		require.True(t, isString || isTime, "%s: %T is no string", where, v)
	case "boolean":
		require.IsType(t, true, v, where)
	case "integer":
		switch v.(type) {
		case int, int64, uint64:
		default:
			require.Fail(t, "no integer", "%s: %T", where, v)
		}
	default:
		require.Fail(t, "no type", where)
	}
}
