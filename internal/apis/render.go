package apis

import "github.com/tullemesh/tulle/internal/apis/problem"

// Render shows problems to a person; see problem.Render.
func Render(problems []Problem, sources map[string][]byte, color bool) string {
	return problem.Render(problems, sources, color)
}
