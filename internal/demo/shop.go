package demo

import (
	"encoding/json"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// The ports below are those of tulle.yaml beside this file; a test holds both together.
const (
	catalogURL         = "http://catalog:8080/products"
	recommendationsURL = "http://recommendations:8080/recommendations"
	paymentURL         = "http://payment:8080/pay"
	providerURL        = "http://provider.bank.example/authorize"
	ledgerAddress      = "ledger:9000"
)

// Product is one thing that the shop sells.
type Product struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Cents int64  `json:"cents"`
}

// Receipt is what payment answers, and web after it.
type Receipt struct {
	// Version is that of the payment service which took the money: the share of each version is counted by it.
	Version string `json:"version"`
	// Entry is the number of the ledger's entry, counted from 1 since the ledger started.
	Entry uint64 `json:"entry"`
	// Cents is the amount, Authorization the external provider's code.
	Cents         int64  `json:"cents"`
	Authorization string `json:"authorization"`
	// Risk is the risk in percent that v2 reckons; v1 knows none.
	Risk *int `json:"risk,omitempty"`
}

// Page is what web answers to GET /.
type Page struct {
	Version         string    `json:"version"`
	Products        []Product `json:"products"`
	Recommendations []string  `json:"recommendations"`
}

// handler returns what the service does; the ledger speaks no HTTP and is in ledger.go.
func (s *service) handler() http.Handler {
	mux := http.NewServeMux()
	switch s.name {
	case "web":
		mux.HandleFunc("GET /{$}", s.front)
		mux.HandleFunc("POST /checkout", s.checkout)
	case "catalog":
		mux.HandleFunc("GET /products", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, products()) })
	case "recommendations":
		mux.HandleFunc("GET /recommendations", s.recommend)
	case "payment":
		mux.HandleFunc("GET /pay", s.pay)
	case "provider":
		mux.HandleFunc("GET /authorize", func(w http.ResponseWriter, r *http.Request) {
			writeJSON(w, http.StatusOK, map[string]string{"code": "A" + r.URL.Query().Get("cents")})
		})
	}
	return mux
}

// products is the catalog: fixed, so that a lesson's output can be compared.
func products() []Product {
	return []Product{
		{ID: "tulle", Name: "Tulle, white, 1 m", Cents: 499}, {ID: "veil", Name: "Veil", Cents: 5900},
		{ID: "tutu", Name: "Tutu", Cents: 12900}, {ID: "net", Name: "Mosquito net", Cents: 2450},
	}
}

// front answers GET / with the page of the shop. Catalog and recommendations are asked at once; without recommendations the page is
// still a page.
func (s *service) front(w http.ResponseWriter, r *http.Request) {
	page := Page{Version: s.version()}
	var wg sync.WaitGroup
	var catalogErr, recommendErr error
	wg.Go(func() { catalogErr = s.calls.get(r, catalogURL, &page.Products) })
	wg.Go(func() { recommendErr = s.calls.get(r, recommendationsURL, &page.Recommendations) })
	wg.Wait()
	if catalogErr != nil {
		s.fail(w, http.StatusBadGateway, catalogErr.Error())
		return
	}
	if recommendErr != nil {
		s.log.Debug("page without recommendations", slog.Any("error", recommendErr))
		page.Recommendations = nil
	}
	if strings.Contains(r.Header.Get("Accept"), "text/html") {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if err := frontPage().Execute(w, page); err != nil {
			s.log.Debug("page not written", slog.Any("error", err))
		}
		return
	}
	writeJSON(w, http.StatusOK, page)
}

// frontPage is the shop for a person's browser.
func frontPage() *template.Template {
	return template.Must(template.New("front").Parse(`<!doctype html><html lang="en"><meta charset="utf-8"><title>The tulle shop</title>
<h1>The tulle shop</h1><p>web {{.Version}}</p><ul>{{range .Products}}<li>{{.Name}}: {{.Cents}} cents</li>{{end}}</ul>
{{with .Recommendations}}<p>Others also bought: {{range .}}{{.}} {{end}}</p>{{end}}
<form method="post" action="/checkout"><button>Buy a veil</button></form></html>
`))
}

// checkout answers POST /checkout: it buys one veil.
func (s *service) checkout(w http.ResponseWriter, r *http.Request) {
	var receipt Receipt
	if err := s.calls.get(r, paymentURL+"?cents=5900", &receipt); err != nil {
		s.fail(w, http.StatusBadGateway, err.Error())
		return
	}
	writeJSON(w, http.StatusOK, receipt)
}

// recommend answers with what is in the catalog, without its prices.
func (s *service) recommend(w http.ResponseWriter, _ *http.Request) {
	var ids []string
	for _, p := range products()[1:] {
		ids = append(ids, p.ID)
	}
	writeJSON(w, http.StatusOK, ids)
}

// pay takes money: the provider outside authorizes it, the ledger writes it down.
func (s *service) pay(w http.ResponseWriter, r *http.Request) {
	cents, err := strconv.ParseInt(r.URL.Query().Get("cents"), 10, 64)
	if err != nil || cents <= 0 || cents > ledgerAmountMax {
		s.fail(w, http.StatusBadRequest, fmt.Sprintf("cents must be a number from 1 to %d", ledgerAmountMax))
		return
	}
	var auth struct {
		Code string `json:"code"`
	}
	if err := s.calls.get(r, providerURL+"?cents="+strconv.FormatInt(cents, 10), &auth); err != nil {
		s.fail(w, http.StatusBadGateway, err.Error())
		return
	}
	entry, err := s.calls.post(r.Context(), cents)
	if err != nil {
		s.fail(w, http.StatusBadGateway, err.Error())
		return
	}
	receipt := Receipt{Version: s.version(), Entry: entry, Cents: cents, Authorization: auth.Code}
	if receipt.Version != "v1" {
		risk := int(cents % 100)
		receipt.Risk = &risk
	}
	writeJSON(w, http.StatusOK, receipt)
}

// ReceiptVersion returns the payment version named in the body of a checkout answer, or nothing when it is not a receipt.
func ReceiptVersion(body []byte) string {
	var r Receipt
	if json.Unmarshal(body, &r) != nil || r.Entry == 0 {
		return ""
	}
	return r.Version
}
