package app

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestMonitoringPortRefusesPagesOfOtherOrigins(t *testing.T) {
	c, err := NewControlPlane(t.Context(), ServeOptions{Files: []string{t.TempDir()}, ServerNames: []string{"mesh.example"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		path, host string
		code       int
	}{
		{"/tulle/v1/status", "127.0.0.1:15014", http.StatusOK},
		{"/tulle/v1/status", "[::1]:15014", http.StatusOK},
		{"/tulle/v1/status", "localhost:15014", http.StatusOK},
		{"/tulle/v1/status", "mesh.example:15014", http.StatusOK},
		{"/tulle/v1/status", "evil.example:15014", http.StatusForbidden},
		{"/tulle/v1/status", "", http.StatusForbidden},
		{"/tulle/v1/objects", "evil.example", http.StatusForbidden},
		{"/debug/syncz", "evil.example", http.StatusForbidden},
		{"/metrics", "scraped.example:15014", http.StatusOK},
		{"/version", "scraped.example:15014", http.StatusOK},
	} {
		r := httptest.NewRequest(http.MethodGet, tc.path, nil)
		r.Host = tc.host
		w := httptest.NewRecorder()
		c.monitor().ServeHTTP(w, r)
		if w.Code != tc.code {
			t.Errorf("%s with host %q: %d, want %d", tc.path, tc.host, w.Code, tc.code)
		}
	}
}
