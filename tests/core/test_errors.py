from ilp_mlflow.core.errors import first_line


def test_the_first_line_says_what_it_is_and_ends_with_a_word():
    sql = "(raised as a result of Query-invoked autoflush; see)\n(sqlite3.OperationalError) readonly database\n[SQL]"
    assert first_line(Exception(sql)) == "(sqlite3.OperationalError) readonly database"
    assert first_line(Exception("word " * 100)).endswith("word ...")
    assert first_line(KeyError()) == "KeyError"
