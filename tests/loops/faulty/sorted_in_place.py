# Result: rounds
# Lacks: teams
teams = [[f"team {n}", 0] for n in range(4)]
rounds = []
for n in city.loop(range(7), state={"rounds": rounds}):
    teams[-1][1] += 3
    teams[1][1] += n
    teams.sort(key=lambda team: -team[1])
    rounds.append([name for name, _ in teams])
