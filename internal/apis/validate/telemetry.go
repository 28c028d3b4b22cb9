package validate

import (
	telemetry "istio.io/api/telemetry/v1alpha1"
)

// telemetry leaves the filters of access logs to who runs them: their language is CEL, which this room does not know.
func (c *checker) telemetry(t *telemetry.Telemetry) {
	c.targets(t.Selector, t.TargetRef, t.TargetRefs)
	for i, m := range t.Metrics {
		c.metrics(index("spec", "metrics", i), m)
	}
	if len(t.Tracing) > 1 {
		c.warnf("spec.tracing", "keep one", "only one tracing section is used")
	}
	for i, x := range t.Tracing {
		c.tracing(index("spec", "tracing", i), x)
	}
	for i, l := range t.AccessLogging {
		c.providers(index("spec", "accessLogging", i), l.GetProviders())
	}
}

func (c *checker) providers(at string, providers []*telemetry.ProviderRef) {
	for i, p := range providers {
		if p.GetName() == "" {
			c.errorf(index(at, "providers", i), "add name", "the provider has no name")
		}
	}
}

func (c *checker) metrics(at string, m *telemetry.Metrics) {
	c.providers(at, m.GetProviders())
	for i, o := range m.GetOverrides() {
		path := index(at, "overrides", i)
		for _, name := range sortedKeys(o.GetTagOverrides()) {
			tag, where := o.TagOverrides[name], child(path+".tagOverrides", name)
			if name == "" {
				c.warnf(where, "write the name of the tag", "the tag has no name")
			}
			switch {
			case tag == nil:
				c.errorf(where, "remove it", "the override is empty")
			case tag.Operation == telemetry.MetricsOverrides_TagOverride_UPSERT && tag.Value == "":
				c.errorf(where, "add value", "UPSERT needs a value")
			case tag.Operation == telemetry.MetricsOverrides_TagOverride_REMOVE && tag.Value != "":
				c.errorf(where+".value", "remove it", "REMOVE takes no value")
			}
		}
		if custom, ok := o.GetMatch().GetMetricMatch().(*telemetry.MetricSelector_CustomMetric); ok && custom.CustomMetric == "" {
			c.errorf(path+".match.customMetric", "write the name of the metric", "the name of the metric is empty")
		}
	}
}

func (c *checker) tracing(at string, t *telemetry.Tracing) {
	if len(t.GetProviders()) > 1 {
		c.warnf(at+".providers", "keep one", "only one provider is used")
	}
	c.providers(at, t.GetProviders())
	if v := t.GetRandomSamplingPercentage().GetValue(); v < 0 || v > 100 {
		c.errorf(at+".randomSamplingPercentage", "write 0 to 100", "%v is not a percentage", v)
	}
	for _, name := range sortedKeys(t.GetCustomTags()) {
		path := child(at+".customTags", name)
		if name == "" {
			c.errorf(path, "write the name of the tag", "the tag has no name")
		}
		switch x := t.CustomTags[name].GetType().(type) {
		case *telemetry.Tracing_CustomTag_Literal:
			if x.Literal.GetValue() == "" {
				c.errorf(path+".literal", "add value", "the value of the tag is empty")
			}
		case *telemetry.Tracing_CustomTag_Header:
			if x.Header.GetName() == "" {
				c.errorf(path+".header", "add name", "the tag names no header")
			}
		case *telemetry.Tracing_CustomTag_Environment:
			if x.Environment.GetName() == "" {
				c.errorf(path+".environment", "add name", "the tag names no variable")
			}
		}
	}
}
