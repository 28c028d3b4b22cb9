package apis_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/apis"
	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/limit"
)

func TestListsInListsAreLimited(t *testing.T) {
	const object = "{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: a}, spec: {address: 10.0.0.1}}"
	for _, n := range []int{limit.ListDepthMax - 1, limit.ListDepthMax, limit.ListDepthMax + 1} {
		text := strings.Repeat("{apiVersion: v1, kind: List, items: [", n) + object + strings.Repeat("]}", n)
		r := apis.NewDecoder().Decode("a.yaml", []byte(text), apis.Options{})
		read := len(r.Objects) == 1 && len(r.Problems) == 0
		refused := len(r.Objects) == 0 && len(r.Problems) == 1 && r.Problems[0].Code == problem.CodeLimit
		if n > limit.ListDepthMax && !refused || n <= limit.ListDepthMax && !read {
			t.Errorf("%d Lists, the limit is %d: %d objects, %v", n, limit.ListDepthMax, len(r.Objects), r.Problems)
		}
	}
}

func TestProblemsOfAFileAreLimitedAndTheRestCounted(t *testing.T) {
	const most = limit.FileProblemsMax
	for n, more := range map[int]string{most - 1: "", most: "", most + 1: "1 more problems of this file are not shown"} {
		r := apis.NewDecoder().Decode("a.yaml", []byte(strings.Repeat("---\napiVersion: networking.istio.io/v1\n", n)), apis.Options{})
		last := r.Problems[len(r.Problems)-1]
		if more == "" && (len(r.Problems) != n || last.Code == problem.CodeMore) {
			t.Errorf("%d problems: %d are told, the last is %s", n, len(r.Problems), last.Code)
		}
		if more != "" && (len(r.Problems) != most+1 || last.Code != problem.CodeMore || last.Message != more) {
			t.Errorf("%d problems: %d are told, the last is %s", n, len(r.Problems), fmt.Sprint(last))
		}
	}
}
