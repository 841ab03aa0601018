from tests.faults.results import PAGE, page


def test_the_page_s_table_is_what_was_kept() -> None:
    """`python -m tests.faults.results` writes it."""
    assert PAGE.read_text(encoding="utf-8") == page()
