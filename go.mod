module rawsgi

go 1.24
