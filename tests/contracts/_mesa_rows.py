ROWS: dict = {}
ELSEWHERE: dict = {}
