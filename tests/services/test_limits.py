from tests.services.limits import PAGE, page


def test_the_page_s_tables_are_what_was_kept() -> None:
    """`python -m tests.services.limits` writes them."""
    assert PAGE.read_text(encoding="utf-8") == page()
