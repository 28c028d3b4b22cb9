package document_test

import (
	"strings"
	"testing"

	"github.com/tullemesh/tulle/internal/apis/document"
	"github.com/tullemesh/tulle/internal/apis/problem"
	"github.com/tullemesh/tulle/internal/limit"
)

func TestValuesOfADocumentAreLimited(t *testing.T) {
	t.Parallel()
	for _, n := range []int{limit.DocumentNodesMax - 1, limit.DocumentNodesMax, limit.DocumentNodesMax + 1} {
		// A list of nothing, which is what the parser reads fastest; the list is a value too.
		docs, problems := document.Parse([]byte(strings.Repeat("-\n", n-1)))
		if len(docs) != 1 || len(problems) != 0 {
			t.Fatalf("%d values: %d documents, %v", n, len(docs), problems)
		}
		refused := docs[0].Root == nil && len(docs[0].Problems) == 1 && docs[0].Problems[0].Code == problem.CodeLimit
		read := docs[0].Root != nil && len(docs[0].Root.Items) == n-1 && len(docs[0].Problems) == 0
		if n > limit.DocumentNodesMax && !refused || n <= limit.DocumentNodesMax && !read {
			t.Errorf("%d values, the limit is %d: read %v, %v", n, limit.DocumentNodesMax, read, docs[0].Problems)
		}
	}
}

func TestBytesOfAFileAreLimited(t *testing.T) {
	const documents, begin = 4, "---\na: "
	for _, n := range []int{limit.FileBytesMax - 1, limit.FileBytesMax, limit.FileBytesMax + 1} {
		text := strings.Repeat(begin+strings.Repeat("x", limit.FileBytesMax/documents-len(begin)-1)+"\n", documents-1)
		text += begin + strings.Repeat("x", n-len(text)-len(begin)-1) + "\n"
		docs, problems := document.Parse([]byte(text))
		refused := len(docs) == 0 && len(problems) == 1 && problems[0].Code == problem.CodeLimit
		read := len(docs) == documents && len(problems) == 0
		if n > limit.FileBytesMax && !refused || n <= limit.FileBytesMax && !read {
			t.Errorf("%d bytes, the limit is %d: %d documents, %v", len(text), limit.FileBytesMax, len(docs), problems)
		}
	}
}

func TestDocumentsOfAFileAreLimited(t *testing.T) {
	const most = limit.DocumentsMax
	for n, told := range map[int]int{most - 1: 0, most: 0, most + 1: 1} {
		docs, problems := document.Parse([]byte(strings.Repeat("---\na: 1\n", n)))
		if len(docs) != min(n, most) || len(problems) != told || told == 1 && problems[0].Code != problem.CodeLimit {
			t.Errorf("%d documents: %d are read, %v", n, len(docs), problems)
		}
	}
}
