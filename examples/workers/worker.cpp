// A persistent worker for zo.Program in C++17: one JSON line an evaluation in, one JSON line out, then raw bytes.
// Build: g++ -O2 -std=c++17 worker.cpp -o worker. Here x0 is a list of numbers and the result the array (x - 0.5)^2.
// A real program reads the line with a JSON library; only answers may go to std::cout, all else to std::cerr.
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

int main() {
    std::string line;
    while (std::getline(std::cin, line)) {
        std::vector<double> x;
        const auto found = line.find("\"parameters\": [");
        if (found == std::string::npos) {
            std::cout << "{\"error\": \"the parameters must be a list\"}\n" << std::flush;
            continue;
        }
        const char* place = line.c_str() + found + 15;
        while (*place != ']') {
            char* end;
            x.push_back(std::strtod(place, &end));
            if (end == place) break;
            place = *end == ',' ? end + 1 : end;
        }
        for (double& value : x) value = (value - 0.5) * (value - 0.5);
        // Little-endian, as on every machine that this is likely to run on.
        std::cout << "{\"arrays\": [{\"dtype\": \"<f8\", \"shape\": [" << x.size() << "]}]}\n";
        std::cout.write(reinterpret_cast<const char*>(x.data()), static_cast<std::streamsize>(8 * x.size()));
        std::cout << std::flush;
    }
}
