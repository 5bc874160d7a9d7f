# Result: (books, problems)
import gc
import json

documents = [json.dumps({"id": n, "title": f"Book {n}", "pages": n * 37 % 90}) for n in range(10)]
documents[4] = "{broken"
books, problems = {}, []
required = ("id", "title")
for number, document in city.loop([*enumerate(documents)], state=[books, problems]):
    try:
        record = json.loads(document)
        missing = [field for field in required if field not in record]
    except json.JSONDecodeError as error:
        problems.append((number, error.msg))
        continue
    else:
        title = record.pop("title")
        books[title] = record
    finally:
        gc.collect(0)
    while (pages := books[title]["pages"]) < 20:
        books[title]["pages"] = pages + 10
