package compile

import (
	"fmt"
	"maps"
	"slices"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	streamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tullemesh/tulle/internal/proxy/engine/access"
	"github.com/tullemesh/tulle/internal/proxy/engine/listener"
)

func (v *conv) accessLog(m *accesslogv3.AccessLog, path string) listener.AccessLog {
	var out listener.AccessLog
	at := join(path, "typed_config")
	switch l := v.unpacked[m.GetTypedConfig()].(type) {
	case *filev3.FileAccessLog:
		out.Path = l.GetPath()
		v.logFormat(&out, l.GetLogFormat(), join(at, "log_format"))
		if f := l.GetFormat(); f != "" { // deprecated, and still sent
			out.Format = f
		}
	case *streamv3.StdoutAccessLog:
		out.Path = "/dev/stdout"
		v.logFormat(&out, l.GetLogFormat(), join(at, "log_format"))
	case *streamv3.StderrAccessLog:
		out.Path = "/dev/stderr"
		v.logFormat(&out, l.GetLogFormat(), join(at, "log_format"))
	default:
		v.report.refuse(at, fmt.Sprintf("%s is not an access log", m.GetName()))
	}
	if f := m.GetFilter(); f != nil {
		v.logFilter(&out, f, join(path, "filter"))
	}
	var err error
	if len(out.JSON) > 0 {
		_, err = access.ParseJSON(out.JSON)
	} else {
		_, err = access.Parse(out.Format)
	}
	if err != nil {
		v.report.refuse(at, err.Error())
	}
	return out
}

func (v *conv) logFormat(out *listener.AccessLog, m *corev3.SubstitutionFormatString, path string) {
	switch f := m.GetFormat().(type) {
	case nil:
	case *corev3.SubstitutionFormatString_TextFormat:
		out.Format = f.TextFormat // deprecated, and still sent
	case *corev3.SubstitutionFormatString_TextFormatSource:
		if f.TextFormatSource.GetFilename() != "" {
			v.report.refuse(join(path, "text_format_source.filename"), "a format in a file is not supported")
		}
		out.Format = f.TextFormatSource.GetInlineString()
		if b := f.TextFormatSource.GetInlineBytes(); len(b) > 0 {
			out.Format = string(b)
		}
	case *corev3.SubstitutionFormatString_JsonFormat:
		for _, key := range slices.Sorted(maps.Keys(f.JsonFormat.GetFields())) {
			value, ok := f.JsonFormat.GetFields()[key].GetKind().(*structpb.Value_StringValue)
			if !ok {
				v.report.refuse(fmt.Sprintf("%s.json_format[%q]", path, key), "only text is supported as a value of a JSON log")
				continue
			}
			out.JSON = append(out.JSON, listener.JSONField{Key: key, Format: value.StringValue})
		}
	default:
		v.report.refuse(path, "format is not supported")
	}
}

func (v *conv) logFilter(out *listener.AccessLog, m *accesslogv3.AccessLogFilter, path string) {
	switch f := m.GetFilterSpecifier().(type) {
	case *accesslogv3.AccessLogFilter_ResponseFlagFilter:
		out.OnlyFlags = f.ResponseFlagFilter.GetFlags()
		if len(out.OnlyFlags) == 0 {
			v.report.refuse(path, "a filter for any flag at all is not supported; name the flags")
		}
	case *accesslogv3.AccessLogFilter_NotHealthCheckFilter:
		out.NotHealth = true
	case *accesslogv3.AccessLogFilter_StatusCodeFilter:
		c := f.StatusCodeFilter.GetComparison()
		if c.GetOp() != accesslogv3.ComparisonFilter_GE {
			v.report.refuse(join(path, "status_code_filter.comparison.op"), "only GE is supported")
		}
		out.StatusMin = int(c.GetValue().GetDefaultValue())
	default:
		v.report.refuse(path, "filter is not supported")
	}
}
