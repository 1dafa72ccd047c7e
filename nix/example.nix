# A host that is gateway and neuron of a fleet of two. Its files and units are checked by tests/unit/nix.
let
  models = [
    {
      id = "qwen3-8b";
      source = "Qwen/Qwen3-8B";
      vram_mb = 20000;
      min_device_vram_mb = 20000;
      aliases = [ "chat" ];
      preload_on = [ "tower" ];
    }
    {
      id = "smollm2";
      source = "/srv/models/SmolLM2-135M-Instruct.Q4_1.gguf";
      vram_mb = 1800;
      sampling.temperature = 0.2;
    }
  ];
in
{
  networking.hostName = "tower";

  services.cortex-gateway = {
    enable = true;
    openFirewall = true;
    keysFile = "/run/secrets/cortex-keys.toml"; # from sops-nix, agenix, or a hand
    inherit models;
    settings = {
      gateway.workers = 2;
      gateway.access_log = "/var/log/cortex/access.jsonl";
      eviction.strategy = "priority";
      neurons = [
        {
          name = "tower";
          url = "http://127.0.0.1:13131";
        }
        {
          name = "rack";
          url = "http://192.0.2.12:13131";
        }
      ];
    };
  };

  services.cortex-neuron = {
    enable = true;
    openFirewall = true;
    environmentFile = "/run/secrets/neuron.env"; # HTTPS_PROXY=…
    hubTokenFile = "/run/secrets/hub-token";
    inherit models;
    settings.neuron = {
      devices = [ 0 ];
      environment.NCCL_SOCKET_IFNAME = "eth0";
    };
  };
}
