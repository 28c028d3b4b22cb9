package schema

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/tullemesh/tulle/internal/apis/document"
	"github.com/tullemesh/tulle/internal/apis/problem"
)

// Struct fills the Go struct that target points to from the tree, strictly by JSON tags: an unknown field is a problem, null
// leaves a field at zero, types with their own JSON form (quantities, times, int-or-string) read that.
func Struct(n *document.Node, target any, path string) []problem.Problem {
	d := structDecoder{}
	d.value(n, reflect.ValueOf(target).Elem(), path)
	return d.problems
}

type structDecoder struct {
	reporter
}

func (d *structDecoder) value(n *document.Node, v reflect.Value, path string) {
	if n.Kind == document.Null {
		return
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, v.Elem(), path)
		return
	}
	if u, ok := v.Addr().Interface().(json.Unmarshaler); ok {
		if err := u.UnmarshalJSON(n.AppendJSON(nil)); err != nil {
			d.wrong(n, path, wantOf(v.Type()), exampleOf(v.Type()))
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(n, v, path)
	case reflect.Map:
		d.mapping(n, v, path)
	case reflect.Slice:
		d.list(n, v, path)
	case reflect.Interface:
		var x any
		if err := json.Unmarshal(n.AppendJSON(nil), &x); err == nil && v.NumMethod() == 0 {
			v.Set(reflect.ValueOf(x))
		}
	default:
		d.scalar(n, v, path)
	}
}

func (d *structDecoder) structure(n *document.Node, v reflect.Value, path string) {
	if n.Kind != document.Map {
		d.wrong(n, path, "a mapping", "its fields below it, indented: "+list(jsonNames(v.Type())))
		return
	}
	for i := range n.Fields {
		f := &n.Fields[i]
		target, ok := jsonField(v, f.Name)
		if !ok {
			d.unknown(f, path, v.Type().Name(), jsonNames(v.Type()))
			continue
		}
		d.value(f.Value, target, document.Join(path, f.Name))
	}
}

func (d *structDecoder) mapping(n *document.Node, v reflect.Value, path string) {
	if n.Kind != document.Map || v.Type().Key().Kind() != reflect.String {
		d.wrong(n, path, "a mapping", "key: value lines, indented")
		return
	}
	v.Set(reflect.MakeMapWithSize(v.Type(), len(n.Fields)))
	for _, f := range n.Fields {
		item := reflect.New(v.Type().Elem()).Elem()
		d.value(f.Value, item, document.Join(path, f.Name))
		v.SetMapIndex(reflect.ValueOf(f.Name).Convert(v.Type().Key()), item)
	}
}

func (d *structDecoder) list(n *document.Node, v reflect.Value, path string) {
	if v.Type().Elem().Kind() == reflect.Uint8 {
		b, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(n.Text), ""))
		if n.Kind != document.String || err != nil {
			d.add(n.Place(), path, problem.CodeType, "wants base64 text", `encode it: base64 -w0 FILE`) // without the value, which may be a secret
			return
		}
		v.SetBytes(b)
		return
	}
	if n.Kind != document.List {
		d.wrong(n, path, "a list", "each item in a line of its own, after a dash")
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Items), len(n.Items)))
	for i, item := range n.Items {
		d.value(item, v.Index(i), document.Index(path, i))
	}
}

func (d *structDecoder) scalar(n *document.Node, v reflect.Value, path string) {
	switch v.Kind() {
	case reflect.String:
		if n.Kind != document.String {
			d.wrong(n, path, "text", `"text"`)
			return
		}
		v.SetString(n.Text)
	case reflect.Bool:
		b, ok := boolean(n)
		if !ok {
			d.wrong(n, path, "true or false", "true")
			return
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		text, ok := wholeText(n)
		i, err := strconv.ParseInt(text, 10, v.Type().Bits())
		if !ok || err != nil || n.Kind == document.String {
			d.wrong(n, path, "a whole number", "80")
			return
		}
		v.SetInt(i)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		text, ok := wholeText(n)
		u, err := strconv.ParseUint(text, 10, v.Type().Bits())
		if !ok || err != nil || n.Kind == document.String {
			d.wrong(n, path, "a whole number, 0 or above", "80")
			return
		}
		v.SetUint(u)
	case reflect.Float32, reflect.Float64:
		f, ok := number(n)
		if !ok || n.Kind == document.String {
			d.wrong(n, path, "a number", "12.5")
			return
		}
		v.SetFloat(f)
	default:
		d.add(n.Place(), path, problem.CodeType, fmt.Sprintf("fields of type %s are not read", v.Type()), "")
	}
}

// jsonField finds the field with the JSON name, also in inlined structs.
func jsonField(v reflect.Value, name string) (reflect.Value, bool) {
	t := v.Type()
	for i := range t.NumField() {
		tag, options, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if inlined(t.Field(i), tag, options) {
			if f, ok := jsonField(v.Field(i), name); ok {
				return f, true
			}
		} else if tag == name && tag != "-" && tag != "" {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

func inlined(f reflect.StructField, tag, options string) bool {
	return f.Anonymous && tag == "" && f.Type.Kind() == reflect.Struct || options == "inline"
}

func jsonNames(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		tag, options, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if inlined(t.Field(i), tag, options) {
			names = append(names, jsonNames(t.Field(i).Type)...)
		} else if tag != "" && tag != "-" {
			names = append(names, tag)
		}
	}
	return names
}

// wantOf and exampleOf describe types that have their own JSON form.
func wantOf(t reflect.Type) string {
	switch t.Name() {
	case "Time", "MicroTime":
		return "a time"
	case "Quantity":
		return "a quantity"
	case "IntOrString":
		return "a number or a name"
	case "Duration":
		return "a duration"
	}
	return "another form for " + t.Name()
}

func exampleOf(t reflect.Type) string {
	switch t.Name() {
	case "Time", "MicroTime":
		return `"2026-01-02T15:04:05Z"`
	case "Quantity":
		return "500m or 128Mi"
	case "IntOrString":
		return "8080 or http"
	case "Duration":
		return "5s"
	}
	return "what the API's documentation shows"
}
