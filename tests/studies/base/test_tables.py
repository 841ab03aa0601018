import csv
import io

from studies.base.tables import csv_text


def test_csv_is_read_back() -> None:
    rows = [["a", "0.5"], ['say "x", y', "two\nlines"]]
    text = csv_text(["name", "value"], rows)
    assert list(csv.reader(io.StringIO(text, newline=""))) == [["name", "value"], *rows]
    assert csv_text(["a", "b"], [[1, None]], line_end="\n") == "a,b\n1,\n"
