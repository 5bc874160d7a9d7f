# Result: reports
# Lacks: score
reports = []
score = None
for epoch in city.loop(range(9), state={"reports": reports}):
    if epoch % 3 == 0:
        score = epoch**2
    reports.append(f"epoch {epoch}: {score}")
